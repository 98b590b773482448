"""Log-probabilities of selected rows against full logits, on small models of several architectures."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from aipo_env.errors import ConfigurationError
from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms.config import ObjectiveConfig
from algorithms.logprobs import logprobs_from_logits, token_logprobs
from algorithms.objective import batch_normalizer, objective_loss
from tests.algorithms.tiny import HYBRIDS, tiny_policy

SIZES = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=1),
    "llama_tied": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=1),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
    # Both change the logits behind the output layer; the values are far from neutral.
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05
    ),
    "cohere": lambda: transformers.CohereConfig(**SIZES, logit_scale=3.0),
}


def make_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager")
    return model.double().eval()


def make_batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_ids_BL = torch.randint(37, (3, 9), generator=generator)
    attention_mask_BL = (torch.arange(9) < torch.tensor([[6], [9], [2]])).long()
    selected_BL = (torch.rand(3, 9, generator=generator) < 0.6) & attention_mask_BL.bool()
    selected_BL[:, 0] = False
    selected_BL[:, 1] = True
    return input_ids_BL, attention_mask_BL, selected_BL


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_selected_rows_equal_full_logits_by_value_and_gradient(name, temperature):
    model = make_model(name)
    input_ids_BL, attention_mask_BL, selected_BL = make_batch()
    result = token_logprobs(
        model, input_ids_BL, attention_mask_BL, selected_BL, temperature=temperature, with_entropy=True
    )
    assert result.entropy_T is not None
    loss = result.logprobs_T.square().sum() + result.entropy_T.sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))

    logits_BLV = model(input_ids=input_ids_BL, attention_mask=attention_mask_BL).logits / temperature
    expected_BL = logits_BLV[:, :-1].log_softmax(-1).gather(-1, input_ids_BL[:, 1:, None]).squeeze(-1)
    expected_T = expected_BL[selected_BL[:, 1:]]
    entropy_T = torch.distributions.Categorical(logits=logits_BLV[:, :-1][selected_BL[:, 1:]]).entropy()
    expected_loss = expected_T.square().sum() + entropy_T.sum()
    expected_gradients = torch.autograd.grad(expected_loss, list(model.parameters()))

    torch.testing.assert_close(result.logprobs_T, expected_T, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.entropy_T, entropy_T, rtol=0, atol=1e-12)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_output_layer_sees_the_selected_rows_alone():
    model = make_model("llama")
    input_ids_BL, attention_mask_BL, selected_BL = make_batch()
    shapes = []
    hook = model.get_output_embeddings().register_forward_hook(lambda m, args, out: shapes.append(out.shape))
    token_logprobs(model, input_ids_BL, attention_mask_BL, selected_BL)
    hook.remove()
    assert shapes == [(1, int(selected_BL.sum()), 37)]
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_hook_is_gone_after_an_error():
    model = make_model("llama")
    _, attention_mask_BL, selected_BL = make_batch()
    with pytest.raises(IndexError):
        token_logprobs(model, torch.full((3, 9), 99), attention_mask_BL, selected_BL)
    assert not model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("hides", ["method", "layer", "keyword"])
def test_models_without_a_usable_output_layer_fall_back_to_full_logits(hides):
    inner = make_model("llama")

    class Wrapper(nn.Module):
        """Computes its logits from the inner model in a way that no hook can cut."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            if hides == "layer":
                self.get_output_embeddings = lambda: None
            elif hides == "keyword":
                self.get_output_embeddings = lambda: self.inner.lm_head

        def forward(self, **inputs: Tensor) -> object:
            hidden_BLH = self.inner.model(**inputs).last_hidden_state
            head = self.inner.lm_head
            logits = head(input=hidden_BLH) if hides == "keyword" else hidden_BLH @ head.weight.T
            return transformers.modeling_outputs.CausalLMOutput(logits=logits)

    batch = make_batch()
    torch.testing.assert_close(
        token_logprobs(Wrapper(), *batch).logprobs_T,
        token_logprobs(inner, *batch).logprobs_T,
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_nothing_selected_is_empty_and_differentiable(name):
    model = make_model(name)
    input_ids_BL, attention_mask_BL, selected_BL = make_batch()
    result = token_logprobs(model, input_ids_BL, attention_mask_BL, torch.zeros_like(selected_BL), with_entropy=True)
    assert result.logprobs_T.shape == (0,)
    result.logprobs_T.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_one_full_sequence():
    """All that can be selected of a single sequence: the rows' shape must not be taken for full logits."""
    model = make_model("llama")
    input_ids_BL, ones_BL = torch.arange(7)[None], torch.ones(1, 7, dtype=torch.long)
    selected_BL = ones_BL.bool()
    selected_BL[0, 0] = False
    expected = model(input_ids=input_ids_BL).logits[0, :-1].log_softmax(-1)[torch.arange(6), torch.arange(1, 7)]
    torch.testing.assert_close(token_logprobs(model, input_ids_BL, ones_BL, selected_BL).logprobs_T, expected)


def test_bfloat16_logits_are_normalised_in_float32():
    torch.manual_seed(0)
    logits_TV = (10 * torch.randn(4, 1000)).bfloat16()
    token_ids_T = torch.tensor([0, 1, 2, 3])
    result = logprobs_from_logits(logits_TV, token_ids_T, with_entropy=True)
    exact = logits_TV.double().log_softmax(-1)[torch.arange(4), token_ids_T]
    assert result.logprobs_T.dtype == torch.float32
    torch.testing.assert_close(result.logprobs_T.double(), exact, rtol=1e-5, atol=1e-5)


def test_forbidden_tokens_leave_the_entropy_finite():
    logits_TV = torch.tensor([[0.0, 0.0, -float("inf")]], requires_grad=True)
    result = logprobs_from_logits(logits_TV, torch.tensor([0]), with_entropy=True)
    assert result.entropy_T is not None
    torch.testing.assert_close(result.entropy_T, torch.tensor([2.0]).log())
    (result.entropy_T.sum() + result.logprobs_T.sum()).backward()
    assert logits_TV.grad.isfinite().all()


def test_refusals():
    model = make_model("llama")
    input_ids_BL, attention_mask_BL, selected_BL = make_batch()
    everything_BL = torch.ones_like(selected_BL)
    with pytest.raises(ConfigurationError, match="pad on the right"):
        token_logprobs(model, input_ids_BL, attention_mask_BL.flip(1), selected_BL)
    with pytest.raises(ConfigurationError, match="covers padding"):
        token_logprobs(model, input_ids_BL, attention_mask_BL, everything_BL)
    with pytest.raises(ConfigurationError, match="first token"):
        token_logprobs(model, input_ids_BL, everything_BL, everything_BL)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigurationError, match="temperature must be above 0"):
            token_logprobs(model, input_ids_BL, attention_mask_BL, selected_BL, temperature=temperature)


# Invariant 10 of docs/objective.md: sources survive packing; with it, padding changes nothing down to the weights.


def make_trajectories() -> list[Trajectory]:
    runs = (
        [(Source.PROMPT, 3), (Source.POLICY, 4), (Source.AGENT, 5), (Source.TEMPLATE, 1), (Source.POLICY, 2)],
        [(Source.PROMPT, 1), (Source.AGENT, 1), (Source.POLICY, 1)],
        [(Source.PROMPT, 2), (Source.TEMPLATE, 3), (Source.POLICY, 3)],
    )
    next_id = iter(range(1000))
    return [
        Trajectory(
            env_id="test",
            task_id=str(index),
            segments=[
                Segment(source, "", ids := tuple(next(next_id) % 37 for _ in range(size)), (-0.5,) * len(ids))
                for source, size in segments
            ],
        )
        for index, segments in enumerate(runs)
    ]


def pack(trajectories: list[Trajectory], length: int) -> dict[str, Tensor]:
    """Right-pads the trajectories to `length` and packs what bears loss."""
    rows = len(trajectories)
    input_ids_BL, attention_mask_BL = (
        torch.full((rows, length), 36),
        torch.zeros(rows, length, dtype=torch.long),
    )
    sources_BL, mu_logprobs_BL = torch.full((rows, length), -1), torch.full((rows, length), float("nan"))
    for row, trajectory in enumerate(trajectories):
        size = len(trajectory.token_ids)
        input_ids_BL[row, :size] = torch.tensor(trajectory.token_ids)
        attention_mask_BL[row, :size] = 1
        sources_BL[row, :size] = torch.tensor([int(s) for s in trajectory.sources])
        mu_logprobs_BL[row, :size] = torch.tensor(trajectory.logprobs)
    selected_BL = (sources_BL == Source.POLICY) | (sources_BL == Source.AGENT)
    return {
        "input_ids_BL": input_ids_BL,
        "attention_mask_BL": attention_mask_BL,
        "selected_BL": selected_BL,
        "sources_T": sources_BL[selected_BL],
        "mu_logprobs_T": mu_logprobs_BL[selected_BL],
        "sequence_ids_T": torch.arange(rows)[:, None].expand(rows, length)[selected_BL],
    }


def test_sources_and_ids_survive_packing():
    trajectories = make_trajectories()
    packed = pack(trajectories, length=20)
    bears_loss = (Source.POLICY, Source.AGENT)
    expected = [
        (row, int(source), token_id, logprob)
        for row, t in enumerate(trajectories)
        for source, token_id, logprob in zip(t.sources, t.token_ids, t.logprobs, strict=True)
        if source in bears_loss
    ]
    ids_T = packed["input_ids_BL"][packed["selected_BL"]]
    columns = (packed["sequence_ids_T"], packed["sources_T"], ids_T, packed["mu_logprobs_T"])
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected


@pytest.mark.parametrize("algorithm", ["group_mean", "grpo", "gspo"])
def test_padding_and_micro_batches_change_no_weight_gradient(algorithm):
    model = make_model("llama")
    trajectories = make_trajectories()
    config = ObjectiveConfig(algorithm=algorithm, c_min=0.5)
    advantages_S = torch.tensor([0.7, -0.4, -0.3], dtype=torch.float64)
    whole = pack(trajectories, length=15)
    normalizer = batch_normalizer(whole["sources_T"], whole["sequence_ids_T"])

    def gradients(batches: list[tuple[dict[str, Tensor], Tensor]]) -> list[Tensor]:
        model.zero_grad()
        for batch, advantages in batches:
            logprobs_T = token_logprobs(
                model, batch["input_ids_BL"], batch["attention_mask_BL"], batch["selected_BL"]
            ).logprobs_T
            objective_loss(
                logprobs_T,
                None,
                advantages[batch["sequence_ids_T"]],
                batch["sources_T"],
                batch["mu_logprobs_T"].double(),
                batch["sequence_ids_T"],
                config,
                normalizer=normalizer,
            ).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients([(whole, advantages_S)])
    assert any(bool(g.any()) for g in expected)
    wider = gradients([(pack(trajectories, length=40), advantages_S)])
    single = gradients([(pack([t], length=15), advantages_S[i : i + 1]) for i, t in enumerate(trajectories)])
    for other in (wider, single):
        for gradient, reference in zip(other, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-6, atol=1e-8)  # RMSNorm is fp32


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gemma3"])
@pytest.mark.parametrize("prompt_lengths", [(5, 5, 5, 5), (5, 3, 5, 3)])
def test_prompts_that_rows_share_are_computed_once_with_the_same_values_and_gradients(
    architecture: str, prompt_lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert widths_behind_shared_prompts(architecture, prompt_lengths, monkeypatch) == [12 - min(prompt_lengths)]


@pytest.mark.filterwarnings("ignore:.*fast path is not available.*")
@pytest.mark.parametrize("architecture", HYBRIDS)
def test_repair_14_models_with_states_share_no_prompts(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert widths_behind_shared_prompts(architecture, (5, 3, 5, 3), monkeypatch) == []


def widths_behind_shared_prompts(
    architecture: str, prompt_lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Compares values and gradients with and without prompts that may be shared; returns how wide what was left was."""
    from algorithms import logprobs as module

    model = tiny_policy(architecture).model
    generator = torch.Generator().manual_seed(1)
    totals = (12, 9, 10, 9)
    ids = torch.randint(4, 100, (4, 12), generator=generator)
    for row, length in enumerate(prompt_lengths):
        ids[row, :length] = torch.arange(10, 10 + length)
    places = torch.arange(12).expand(4, 12)
    mask = (places < torch.tensor(totals)[:, None]).long()
    selected = mask.bool() & (places >= torch.tensor(prompt_lengths)[:, None]) & (places % 3 != 0)
    widths: list[int] = []
    plain_after = module._after_prompts

    def after(*args: Any) -> Any:
        predicts, arguments = plain_after(*args)
        widths.append(arguments["input_ids"].shape[1])
        return predicts, arguments

    monkeypatch.setattr(module, "_after_prompts", after)
    found = []
    for lengths in (None, list(prompt_lengths)):
        model.zero_grad()
        values = token_logprobs(model, ids, mask, selected, prompt_lengths_B=lengths).logprobs_T
        (values * torch.linspace(-1, 1, len(values))).sum().backward()
        found.append((values.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    for shared, plain in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(shared, plain, atol=1e-5, rtol=1e-4)
    return widths


def test_activation_checkpointing_shares_no_prompts():
    """It switches the cache off, in which the prompts would be; the log-probabilities stay what they were."""
    model = make_model("llama")
    generator = torch.Generator().manual_seed(2)
    input_ids_BL = torch.randint(37, (4, 9), generator=generator)
    input_ids_BL[:, :5] = input_ids_BL[0, :5]
    selected_BL = torch.arange(9).expand(4, 9) >= 5
    arguments = (model, input_ids_BL, torch.ones_like(input_ids_BL), selected_BL)
    expected = token_logprobs(*arguments).logprobs_T
    new = "activation_checkpointing_enable"  # its name in newer versions of transformers
    getattr(model, new if hasattr(model, new) else "gradient_checkpointing_enable")()
    model.train()
    calls = []
    model.model.register_forward_hook(lambda module, args, kwargs, output: calls.append(module), with_kwargs=True)
    found = token_logprobs(*arguments, prompt_lengths_B=[5] * 4).logprobs_T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert len(calls) == 1  # one pass, none for the prompts
