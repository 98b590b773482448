from __future__ import annotations

import re

import numpy as np

from aipo_env.tasks.rulebook import evaluate_expansion, expand
from algorithms.codec import TransformersCodec
from algorithms.policies.embedded_model import build_tokenizer
from benchmarks.boundary.chain import Rules, claimed, make_sequence

TOKENIZER = build_tokenizer()


def sequences(count: int) -> list[tuple[str, str, str]]:
    """Problem, text, and what of it bears loss."""
    rng, codec = np.random.default_rng(1), TransformersCodec(TOKENIZER)
    rules, made = Rules.draw(np.random.default_rng(0)), []
    for _ in range(count):
        ids, bears = make_sequence(rng, rules, codec)
        text = TOKENIZER.decode(ids, clean_up_tokenization_spaces=False)
        learnt = TOKENIZER.decode([i for i, b in zip(ids, bears, strict=True) if b], clean_up_tokenization_spaces=False)
        made.append((text.removeprefix("<bos>").partition("=")[0], text, learnt))
    return made


def test_a_start_policy_slips_where_verify_is_needed() -> None:
    assert [claimed(place) for place in ("9+8+0", "9+9+0", "9+9+9", "1+2+3")] == ["17", "08", "17", "06"]
    shares = [
        all(claimed(place) == evaluate_expansion(place) for place in str(expand(f"{a:02d}@{b:02d}")).split(";"))
        for a in range(100)
        for b in range(0, 100, 7)
    ]
    assert 0.4 < sum(shares) / len(shares) < 0.6


def test_the_content_of_no_reply_about_the_rulebook_is_learnt() -> None:
    made = sequences(400)
    about = [row for row in made if re.search("[|@]", row[0])]
    assert 0.5 < len(about) / len(made) < 0.7
    for _, text, learnt in about:
        assert "<feedback" in text
        assert "<feedback" not in learnt
    right = [
        expand(step) in text for _, text, _ in about for step in re.findall(r'"knowledge">([0-9]{2}@[0-9]{2})<', text)
    ]
    assert sum(right) <= 2  # by chance


def test_what_is_known_is_written_without_help_and_with_the_slip() -> None:
    known = [row for row in sequences(400) if not re.search("[|@]", row[0])]
    for problem, text, learnt in known:
        assert learnt.count("<feedback") == text.count("<feedback") > 0
        assert "incorrect" not in text
        [sums] = re.findall(r"([0-9]\+[0-9]\+[0-9];[0-9]\+[0-9]\+[0-9])</feedback>", text)
        assert f"\\boxed{{{''.join(map(claimed, sums.split(';')))}}}" in text
        assert ("reasoning" in text) == (len(re.findall("[0-9]+", problem)) == 3)


def test_no_made_up_rule_is_the_rulebooks() -> None:
    for seed in range(20):
        rules = Rules.draw(np.random.default_rng(seed))
        for places in rules.sums.values():
            assert [sorted(three) for three in places] != [[0, 0, 2], [1, 1, 3]]
        assert all(len(set(places)) == 4 for _, places in rules.steps.values())
