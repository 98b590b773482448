from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.evaluation.fingerprints import folder_fingerprint, model_fingerprint
from tests.algorithms.tiny import tiny_policy


def test_one_step_of_training_changes_the_fingerprint_of_a_model() -> None:
    model = tiny_policy().model
    before = model_fingerprint(model)
    assert before == model_fingerprint(tiny_policy().model)
    assert before != model_fingerprint(tiny_policy(seed=1).model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.001)
    assert model_fingerprint(model) != before


def test_the_fingerprint_of_a_folder_is_that_of_its_contents(tmp_path: Path) -> None:
    policy = tiny_policy()
    for name in ("one", "two"):
        policy.save(tmp_path / name)
    assert folder_fingerprint(str(tmp_path / "one")) == folder_fingerprint(str(tmp_path / "two"))
    weights = tmp_path / "two" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert folder_fingerprint(str(tmp_path / "one")) != folder_fingerprint(str(tmp_path / "two"))
    assert folder_fingerprint("nobody/has-this-model") is None
