"""Rollouts of a policy in training by vLLM, in the trainer's own process or behind a server."""

from __future__ import annotations

import contextlib
import copy
import functools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aipo_agents.backends.base import CompletionSampling
from aipo_agents.backends.trainable_server import TrainableServer
from aipo_agents.backends.vllm_in_process import VLLMInProcess
from aipo_env.consulting import run_sync
from aipo_env.errors import ServiceError
from algorithms.logprobs import token_logprobs
from algorithms.policies import Policy
from algorithms.policies.adapters import has_adapter, save_adapter
from algorithms.rollout import LocalSampler, evaluating
from algorithms.samplers import BackendPolicy
from algorithms.train_config import SamplingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE = "If 12 apples cost 34 coins, what do 56 apples cost? " * 40
"""Long enough to fill blocks of the prefix cache (16 to 528 tokens): a probe after a wrong reset finds the old ones there."""
_PROBE_TOKENS = 16
_BOUNDS = {torch.float32: (1e-3, 1e-4), torch.bfloat16: (0.1, 0.02)}
"""Mean differences of log-probabilities, in nats, that pass for rounding: at most, and whatever the first one was."""
_GROWTH = 10
"""By how much rounding may exceed that of the first sync, in which all weights were new."""
_ON_GPU: dict[str, Any] = {"enable_sleep_mode": True, "gpu_memory_utilization": 0.4}
# Half a prefill of a seeded request is what vLLM 0.29 dies of on a CPU.
_ON_CPU: dict[str, Any] = {"enforce_eager": True, "enable_chunked_prefill": False, "kv_cache_memory_bytes": 2**30}
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM takes for its largest."""


class VLLMSampler(LocalSampler):
    """Rolls out a policy with vLLM, which gets the weights before it is used.

    After each sync vLLM samples a few tokens behind a fixed prompt, and its log-probabilities of them are compared with the
    learner's: it has several ways to keep old weights, or what was computed with them, and to report success. In this process
    it starts with the first rollout, and sleeps on a GPU while it is not used.

    Args:
        policy: model and tokenizer; the engine gets its shape from them, and the weights of each sync.
        sampling: temperature, limits, episodes at the same time.
        engine_args: as for `aipo_agents.backends.VLLMEngine`.
        server: address of a vLLM server in place of an engine; see `aipo_agents.backends.TrainableServer`.
        folder: where weights for the server are written.
    """

    def __init__(
        self,
        policy: Policy,
        sampling: SamplingConfig,
        engine_args: Mapping[str, Any],
        *,
        server: str | None,
        folder: Path,
    ) -> None:
        super().__init__(policy, sampling)
        self._engine_args, self._server, self._folder = dict(engine_args), server, folder
        self._begin()

    def _begin(self) -> None:
        self._stale, self._based, self._asleep, self._first = True, False, False, 0.0
        self.mismatch = 0.0
        """The mean difference of log-probabilities, in nats, in the last probe."""

    @functools.cached_property
    def engine(self) -> VLLMInProcess | TrainableServer:
        """The engine, without the policy's weights at first."""
        if self._server is not None:
            return TrainableServer(self._server, self._folder)
        policy, model = self._loaded, self._loaded.model
        on_gpu = model.device.type == "cuda"
        rank = max((config.r for config in model.peft_config.values()), default=0) if has_adapter(model) else 0
        defaults: dict[str, Any] = {
            "dtype": str(model.get_input_embeddings().weight.dtype).removeprefix("torch."),
            "load_format": "dummy",
            "max_num_seqs": self._sampling.batch_size,
            **(_ON_GPU if on_gpu else _ON_CPU),
            **({"enable_lora": True, "max_loras": 1} if rank else {}),
            **({"max_lora_rank": next((r for r in _LORA_RANKS if r >= rank), rank)} if rank else {}),
        }
        with tempfile.TemporaryDirectory(prefix="aipo-vllm-") as folder:
            config = copy.deepcopy(model.config)
            config.architectures = [type(model).__name__]
            config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
            policy.tokenizer.save_pretrained(folder)
            return VLLMInProcess(folder, name=policy.name, **(defaults | self._engine_args))

    @functools.cached_property
    def _policy(self) -> BackendPolicy:
        sampling = self._sampling
        return BackendPolicy(
            self.engine,
            self._loaded.codec,
            CompletionSampling(sampling.temperature, sampling.top_p, sampling.max_tokens),
            context_length=self.engine.context_length,
            name=self._loaded.name,
        )

    def weights_changed(self) -> None:
        """Told whenever the policy's weights have been changed: the next rollout hands them over."""
        self._stale = True

    def close(self) -> None:
        """Ends the engine; another one starts with the next rollout."""
        if (engine := self.__dict__.pop("engine", None)) is not None:
            run_sync(engine.aclose())
        self.__dict__.pop("_policy", None)
        self._begin()

    def metrics(self) -> dict[str, float]:
        """How far vLLM's log-probabilities were from the learner's."""
        return {"sampler/mismatch": self.mismatch}

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        engine, model = self.engine, self._loaded.model
        adapted, on_gpu = has_adapter(model), model.device.type == "cuda"
        if on_gpu:
            # The engine has a stream of its own.
            torch.cuda.synchronize(model.device)
        if self._asleep:
            assert isinstance(engine, VLLMInProcess)
            torch.cuda.empty_cache()
            engine.wake_up("weights")
        if self._stale and not (adapted and self._based):
            engine.load_weights(_named_weights(model).items())
            self._based = True
        if self._asleep:
            # Behind the copy of the weights: the peak is lower.
            assert isinstance(engine, VLLMInProcess)
            engine.wake_up("kv_cache")
            self._asleep = False
        if self._stale:
            if adapted:
                with tempfile.TemporaryDirectory(dir=self._adapter_folder()) as folder:
                    save_adapter(model, Path(folder))
                    engine.load_adapter(Path(folder))
            self.probe()
            self._stale = False
        yield
        # Of an engine that died all episodes end in faults, from which nothing is learnt: better none.
        engine.check()
        if self._server is not None:
            # One that was started anew meanwhile has its first weights again.
            self.probe()
        if isinstance(engine, VLLMInProcess) and self._engine_args.get("enable_sleep_mode", on_gpu):
            # What level 2 drops comes with the next sync; below an adapter nothing would bring it back.
            engine.sleep(level=1 if adapted else 2)
            self._asleep, self._stale = True, self._stale or not adapted

    def _adapter_folder(self) -> Path | None:
        """A disk in memory, where there is one; for a server one that both see."""
        if self._server is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            return self._folder
        memory = Path("/dev/shm")
        return memory if memory.is_dir() else None

    def probe(self) -> None:
        """Compares the engine's log-probabilities of a few tokens that it samples with the learner's.

        Raises:
            ServiceError: when they differ by more than rounding.
        """
        model, codec, temperature = self._loaded.model, self._loaded.codec, self._sampling.temperature
        prompt = codec.encode(_PROBE)[: self.engine.context_length - _PROBE_TOKENS]
        sampled = run_sync(
            self.engine.complete(prompt, CompletionSampling(temperature, max_tokens=_PROBE_TOKENS, seed=0))
        )
        assert sampled.token_ids is not None
        assert sampled.logprobs is not None
        ids_BL = torch.tensor([[*prompt, *sampled.token_ids]], device=model.device)
        selected_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
        selected_BL[:, len(prompt) :] = True
        with torch.no_grad(), evaluating(model):
            ours_T = token_logprobs(model, ids_BL, torch.ones_like(ids_BL), selected_BL, temperature=temperature)
        theirs_T = torch.tensor(sampled.logprobs, dtype=torch.double)
        self.mismatch = float((ours_T.logprobs_T.double().cpu() - theirs_T).abs().mean())
        bound = mismatch_bound(model.get_input_embeddings().weight.dtype, self._first)
        if not self.mismatch <= bound:
            raise ServiceError(
                "after a sync vLLM's log-probabilities are not those of the policy in training: they differ by "
                f"{self.mismatch:.2g} nats on average, where {bound:.2g} is allowed. It may have kept old weights (of a tied "
                "output layer), or what it had computed with them, or its precision (dtype) is another. Nothing was trained on "
                'such rollouts; the last checkpoint is intact. sampler="local" does without vLLM.',
                transient=False,
            )
        self._first = self._first or self.mismatch


def mismatch_bound(dtype: torch.dtype, first: float) -> float:
    """Up to which mean difference of log-probabilities, in nats, a probe passes.

    Args:
        dtype: of the weights.
        first: the difference at the first sync; 0 for that one.
    """
    most, least = _BOUNDS.get(dtype, _BOUNDS[torch.bfloat16])
    return min(most, max(least, _GROWTH * first)) if first else most


def _named_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights by the names of a checkpoint, those below an adapter too, and without it; a tied layer by both names."""
    from transformers.core_model_loading import revert_weight_conversion

    state = {n.replace(".base_layer.", "."): w for n, w in model.state_dict().items() if ".lora_" not in n}
    return dict(revert_weight_conversion(model, state))
