"""The examples of neighbouring methods do what they say: pairs that branch at a query, verdicts that are Verify's."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from aipo_env.tasks.rulebook import OPERATORS, evaluate_expansion
from algorithms.policies import Policy, load_policy

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def preference() -> ModuleType:
    pytest.importorskip("trl", reason="the extra 'trl' is not installed")
    return load("preference_pairs")


@pytest.fixture(scope="module")
def verdict() -> ModuleType:
    return load("verdict_reward")


def logprob(policy: Policy, pairs: Sequence[dict[str, str]], kind: str) -> float:
    """The mean log-probability of the ends of one kind."""
    found = []
    for pair in pairs:
        start = len(policy.tokenizer(pair["prompt"])["input_ids"])
        ids = torch.tensor([policy.tokenizer(pair["prompt"] + pair[kind])["input_ids"]])
        with torch.no_grad():
            logprobs = policy.model(ids).logits[0, :-1].log_softmax(-1)
        found.append(float(logprobs.gather(1, ids[0, 1:, None])[start - 1 :].sum()))
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("operator", "own"), [("@", "rejected"), ("#", "chosen")]
)  # the one that goes, the one that stays
def test_pairs_branch_at_the_query(preference: ModuleType, operator: str, own: str) -> None:
    policy = load_policy("embedded")
    pairs = preference.branched_pairs(policy, operator, range(8))
    assert 4 <= len(pairs) <= 8  # some ask nobody
    answers = []
    for pair in pairs:
        prompt, query = pair["prompt"], pair["prompt"].partition("=")[0].removeprefix("<bos>")
        assert prompt == f'<bos>{query}=<consult agent="knowledge">{query}</consult>'
        for kind in ("rejected", "chosen"):
            expansion = ";".join(OPERATORS[operator if kind == own else "~"].expand(*query.split(operator)))
            reply, _, answer = pair[kind].partition("</feedback>")
            assert reply == f'<feedback agent="knowledge">{expansion}'
            answers.append(answer == rf"\boxed{{{evaluate_expansion(expansion)}}}")
        # What TRL makes of the text is what the policy writes: tags are one token each.
        written = policy.codec.encode_markup(prompt.partition("=")[2] + pair["chosen"])
        wanted = policy.codec.encode_prompt(f"{query}=") + written
        assert policy.tokenizer(prompt + pair["chosen"])["input_ids"] == wanted
    assert sum(answers) > len(answers) / 2  # the policy's own, from either expansion


@pytest.mark.filterwarnings("ignore")  # of TRL and its dependencies, for settings of their own
def test_both_methods_move_the_policy_where_they_should(preference: ModuleType, tmp_path: Path) -> None:
    policy, other = load_policy("embedded"), load_policy("embedded")
    pairs = preference.branched_pairs(policy, "@", range(8))
    half = len(pairs) // 2
    less, more = pairs[:half], pairs[half:]
    own = [(p["prompt"], p["rejected"], -1.0) for p in less] + [(p["prompt"], p["rejected"], 1.0) for p in more]
    before = {kind: logprob(policy, pairs, kind) for kind in ("chosen", "rejected")}
    parts = [logprob(other, part, "rejected") for part in (less, more)]
    for _ in range(3):
        preference.prefer(policy, pairs, tmp_path, 1e-4)
        preference.ascend(other, own, 1e-4)
    chosen, rejected = (logprob(policy, pairs, kind) for kind in ("chosen", "rejected"))
    assert chosen > before["chosen"] + 0.1
    assert chosen - rejected > before["chosen"] - before["rejected"] + 0.1
    # Neighbours of one another, both parts move the same weights: the difference is what was asked for.
    gap = logprob(other, more, "rejected") - logprob(other, less, "rejected")
    assert gap > parts[1] - parts[0] + 0.05


def test_the_expert_is_verify(verdict: ModuleType) -> None:
    claims = ["4+4+1=9", "4+4+1=10", "9+9+9=27", "0+0+0=1"] * 30
    assert verdict.Expert().judge(claims[: verdict.BATCH]).tolist() == [1.0, 0.0, 1.0, 0.0] * 25


def test_a_policy_that_chooses_asks_what_tells_more(verdict: ModuleType) -> None:
    ((auc, accuracy),) = verdict.run("policy", [600], 0)
    assert auc > 0.9
    assert accuracy > 0.3
