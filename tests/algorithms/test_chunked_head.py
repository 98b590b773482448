"""The head without logits against the full computation: values, gradients, memory, and whole models."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from aipo_env.errors import ConfigurationError
from algorithms import logprobs
from algorithms.chunked_head import LogitTransform, chunked_logprobs
from algorithms.logprobs import TokenLogprobs, token_logprobs

ROWS, HIDDEN, VOCABULARY = 11, 5, 23
TRANSFORMS = {
    "none": LogitTransform(),
    "scaled": LogitTransform(scale=-1.7),
    "capped": LogitTransform(softcap=0.8),
    "scaled and capped": LogitTransform(scale=0.6, softcap=2.0),
}


def problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, bias and tokens, with values that are far apart."""
    generator = torch.Generator().manual_seed(3)
    hidden_TH = 3 * torch.randn(ROWS, HIDDEN, generator=generator, dtype=torch.float64)
    weight_VH = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)
    bias_V = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64)
    ids_T = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    ids_T[:2] = torch.tensor([0, VOCABULARY - 1])
    hidden_TH, weight_VH, bias_V = (x.to(dtype).requires_grad_() for x in (hidden_TH, weight_VH, bias_V))
    return hidden_TH, weight_VH, bias_V, ids_T


def reference(
    hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, ids_T: Tensor, temperature: float, how: LogitTransform
) -> tuple[Tensor, Tensor]:
    logits_TV = nn.functional.linear(hidden_TH, weight_VH, bias_V) * how.scale
    if how.softcap is not None:
        logits_TV = torch.tanh(logits_TV / how.softcap) * how.softcap
    logprobs_TV = (logits_TV / temperature).log_softmax(dim=-1)
    return logprobs_TV.gather(1, ids_T[:, None]).squeeze(1), -(logprobs_TV.exp() * logprobs_TV).sum(dim=1)


@pytest.mark.parametrize("tile", [(4, 7), (1, 1), (100, 100), (11, 23)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("with_entropy", [True, False])
def test_values_and_gradients(
    tile: tuple[int, int], temperature: float, biased: bool, name: str, with_entropy: bool
) -> None:
    hidden_TH, weight_VH, bias_V, ids_T = problem()
    inputs = [hidden_TH, weight_VH] + ([bias_V] if biased else [])
    settings = {"temperature": temperature, "transform": TRANSFORMS[name], "with_entropy": with_entropy, "tile": tile}
    found_T, entropy_T = chunked_logprobs(hidden_TH, weight_VH, bias_V if biased else None, ids_T, **settings)
    expected = reference(hidden_TH, weight_VH, bias_V if biased else None, ids_T, temperature, TRANSFORMS[name])
    torch.testing.assert_close(found_T, expected[0], rtol=0, atol=1e-12)
    weights_T = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    loss, expected_loss = (found_T * weights_T).sum(), (expected[0] * weights_T).sum()
    if with_entropy:
        assert entropy_T is not None
        torch.testing.assert_close(entropy_T, expected[1], rtol=0, atol=1e-12)
        loss, expected_loss = loss + entropy_T.square().sum(), expected_loss + expected[1].square().sum()
    else:
        assert entropy_T is None
    gradients = torch.autograd.grad(loss, inputs)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected_loss, inputs), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-10)


def test_the_entropy_alone_can_be_differentiated() -> None:
    hidden_TH, weight_VH, _, ids_T = problem()
    _, entropy_T = chunked_logprobs(hidden_TH, weight_VH, None, ids_T, with_entropy=True, tile=(4, 7))
    assert entropy_T is not None
    _, expected_T = reference(hidden_TH, weight_VH, None, ids_T, 1.0, LogitTransform())
    (found,) = torch.autograd.grad(entropy_T.sum(), [hidden_TH])
    (wanted,) = torch.autograd.grad(expected_T.sum(), [hidden_TH])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_needs_no_gradient_gets_none(frozen: int) -> None:
    hidden_TH, weight_VH, _, ids_T = problem()
    (hidden_TH, weight_VH)[frozen].requires_grad_(False)
    found_T, _ = chunked_logprobs(hidden_TH, weight_VH, None, ids_T)
    found_T.sum().backward()
    assert [hidden_TH.grad is None, weight_VH.grad is None] == [frozen == 0, frozen == 1]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_narrow_numbers_are_summed_in_fp32(dtype: torch.dtype, error: float) -> None:
    inputs = problem(dtype)[:2]
    ids_T = problem()[3]
    found_T, entropy_T = chunked_logprobs(*inputs, None, ids_T, with_entropy=True, tile=(4, 7))
    assert entropy_T is not None
    assert found_T.dtype == entropy_T.dtype == torch.float32
    (found_T.sum() + entropy_T.sum()).backward()
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = reference(*wide, None, ids_T, 1.0, LogitTransform())
    (expected[0].sum() + expected[1].sum()).backward()
    # The products are exact in fp32, so the values are, whatever the inputs' dtype.
    torch.testing.assert_close(found_T.double(), expected[0], rtol=1e-5, atol=1e-5)
    for x, reference_ in zip(inputs, wide, strict=True):
        assert x.grad is not None
        assert reference_.grad is not None
        assert x.grad.dtype == dtype
        assert float((x.grad.double() - reference_.grad).norm() / reference_.grad.norm()) < error


def test_impossible_transforms_are_refused() -> None:
    for scale in (0.0, float("nan")):
        with pytest.raises(ConfigurationError, match="logit scale"):
            LogitTransform(scale=scale)
    with pytest.raises(ConfigurationError, match="soft cap"):
        LogitTransform(softcap=0.0)


SIZES = {
    "vocab_size": 997, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=False),
    "tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
    "phi (a bias)": lambda: transformers.PhiConfig(**SIZES),
    "gemma2 (a cap)": lambda: transformers.Gemma2Config(
        **SIZES, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05
    ),
    "cohere (a scale)": lambda: transformers.CohereConfig(**SIZES, logit_scale=3.0),
    "granite (a scale)": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=5.0),
}


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager")
    return model.double().eval()


def make_batch() -> dict[str, object]:
    """Four rows of two prompts of three tokens each, of which those behind the prompts are selected."""
    generator = torch.Generator().manual_seed(1)
    ids_BL = torch.randint(SIZES["vocab_size"], (4, 9), generator=generator)
    ids_BL[1, :3], ids_BL[3, :3] = ids_BL[0, :3], ids_BL[2, :3]
    mask_BL = (torch.arange(9) < torch.tensor([[6], [9], [7], [9]])).long()
    selected_BL = (torch.arange(9) >= 3) & mask_BL.bool()
    return {"input_ids_BL": ids_BL, "attention_mask_BL": mask_BL, "selected_BL": selected_BL}


def gradients(model: nn.Module, found: TokenLogprobs) -> list[Tensor]:
    assert found.entropy_T is not None
    loss = found.logprobs_T.square().sum() + found.entropy_T.sum()
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("shared", [None, [3, 3, 3, 3]])
@pytest.mark.parametrize("name", CONFIGS)
def test_models_give_the_same_in_chunks(name: str, shared: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make_model(name), make_batch()
    settings = {"temperature": 0.7, "with_entropy": True, "prompt_lengths_B": shared}
    expected = token_logprobs(model, **batch, **settings)
    monkeypatch.setattr(logprobs, "CHUNKED_FROM", 0)
    shapes = []
    hook = model.get_output_embeddings().register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape)))
    found = token_logprobs(model, **batch, **settings)
    hook.remove()
    assert shapes == [(1, 1, SIZES["vocab_size"])]
    torch.testing.assert_close(found.logprobs_T, expected.logprobs_T, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.entropy_T, expected.entropy_T, rtol=0, atol=1e-10)
    for gradient, wanted in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-10)
    layer = model.get_output_embeddings()
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks


class Unknown(nn.Module):
    """A model that does to its logits what no transform describes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_model("llama")
        self.calls = 0

    def get_output_embeddings(self) -> nn.Module:
        layer: nn.Module = self.inner.get_output_embeddings()
        return layer

    def forward(self, input_ids: Tensor, **arguments: object) -> object:
        self.calls += 1
        output = self.inner(input_ids=input_ids, **arguments)
        output.logits = output.logits.sin()
        return output


def test_unknown_transforms_fall_back_to_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = Unknown(), make_batch()
    expected = token_logprobs(model, **batch)
    monkeypatch.setattr(logprobs, "CHUNKED_FROM", 0)
    model.calls = 0
    for calls in (2, 3):  # the first time it is found out
        torch.testing.assert_close(token_logprobs(model, **batch).logprobs_T, expected.logprobs_T, rtol=0, atol=1e-12)
        assert model.calls == calls


def test_layers_that_are_no_plain_product_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adapted(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 0.1 * input.sum(dim=-1, keepdim=True).sin() * self.weight[:, 0]

    model, batch = make_model("llama"), make_batch()
    layer = Adapted(SIZES["hidden_size"], SIZES["vocab_size"], bias=False).double()
    model.set_output_embeddings(layer)
    expected = token_logprobs(model, **batch)
    monkeypatch.setattr(logprobs, "CHUNKED_FROM", 0)
    torch.testing.assert_close(token_logprobs(model, **batch).logprobs_T, expected.logprobs_T, rtol=0, atol=0)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return output


def test_no_tensor_of_the_size_of_the_logits_is_made() -> None:
    """The default threshold, through the whole of `token_logprobs`, forward and backward."""
    vocabulary, rows, length = 40_000, 8, 129
    config = transformers.LlamaConfig(**{**SIZES, "vocab_size": vocabulary, "max_position_embeddings": 256})
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    ids_BL = torch.randint(vocabulary, (rows, length))
    selected_BL = torch.ones_like(ids_BL, dtype=torch.bool)
    selected_BL[:, 0] = False
    assert (size := int(selected_BL.sum()) * vocabulary) >= logprobs.CHUNKED_FROM
    with LargestTensor() as largest:
        found = token_logprobs(model, ids_BL, torch.ones_like(ids_BL), selected_BL, with_entropy=True)
        assert found.entropy_T is not None
        (found.logprobs_T.sum() + found.entropy_T.sum()).backward()
    assert 0 < largest.numel < size / 16
