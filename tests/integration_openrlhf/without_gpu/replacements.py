"""What stands in for CUDA and NCCL in the tests; `sitecustomize` applies each function to the module it is named after."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any


def torch_cuda(torch: ModuleType) -> None:
    """The calls of `torch.cuda` that OpenRLHF makes around its work; the work itself is on the CPU."""
    from tests.integration_openrlhf.stand_ins import install_cuda

    install_cuda()
    for name in ("set_device", "current_stream"):
        # One function for each: TorchDynamo refuses one object under two names.
        setattr(torch.cuda, name, functools.wraps(getattr(torch.cuda, name))(lambda *args, **kwargs: None))


def flash_attn(openrlhf: ModuleType) -> None:
    """What OpenRLHF imports of flash_attn, which cannot be built without CUDA; not used without --ds.packing_samples."""
    import torch  # noqa: F401  (before stand_ins imports it, since patching torch needs all of stand_ins)

    from tests.integration_openrlhf.stand_ins import install_flash_attn

    install_flash_attn()


def device_mesh(module: ModuleType) -> None:
    """`init_device_mesh("cuda", ...)` in OpenRLHF's strategy makes a mesh of CPU processes."""
    real = module.init_device_mesh

    @functools.wraps(real)
    def init_device_mesh(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return real("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    module.init_device_mesh = init_device_mesh


def vllm_worker_wrap(module: ModuleType) -> None:
    """The buffer that receives a weight is asked for on "cuda"; during that call it is made on the CPU."""
    import torch

    real_update, real_empty = module.WorkerWrap.update_weight, torch.empty

    def empty(*args: Any, device: object = None, **kwargs: Any) -> torch.Tensor:
        return real_empty(*args, device="cpu" if device == "cuda" else device, **kwargs)

    @functools.wraps(real_update)
    def update_weight(self: object, *args: Any, **kwargs: Any) -> Any:
        torch.empty = empty
        try:
            return real_update(self, *args, **kwargs)
        finally:
            torch.empty = real_empty

    module.WorkerWrap.update_weight = update_weight


def pynccl(module: ModuleType) -> None:
    """Without NCCL the communicator disables itself, and its broadcast returns without sending anything.

    vLLM's own StatelessProcessGroup, through which NCCL is set up, carries the weights instead.
    """

    class StoreCommunicator:
        def __init__(self, group: Any, device: object) -> None:
            self._group = group

        def broadcast(self, tensor: Any, src: int, stream: object = None) -> None:
            received = self._group.broadcast(tensor, src)
            if received is not tensor:
                tensor.copy_(received)

    module.PyNcclCommunicator = StoreCommunicator


def vllm_linear_layers(module: ModuleType) -> None:
    """Linear layers keep their weights as they were loaded, so that trained ones can take their place.

    On CPUs with AVX-512, vLLM packs them for its own kernels and drops the parameters that OpenRLHF's weight sync loads into.
    """

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        import torch

        layer.cpu_linear = torch.nn.functional.linear

    module.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm
