from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from aipo_env.commands import data
from aipo_env.errors import ConfigurationError
from aipo_env.tasks.decontamination import Copy, TestSets, at_hand, evaluation_sets, problems_of, tokens_of
from tests.tasks.small_data import TRAINING_ROWS, write_jsonl, write_small_data

NAMES = [
    "Anna",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gus",
    "Hana",
    "Ivo",
    "Jana",
    "Kim",
    "Leo",
    "Mia",
    "Nils",
    "Ola",
    "Pia",
]
GOODS = [
    "apples",
    "pears",
    "plums",
    "nuts",
    "figs",
    "dates",
    "limes",
    "kiwis",
    "beans",
    "peas",
    "leeks",
    "corn",
    "eggs",
    "oats",
    "rye",
    "tea",
]
VERBS = [
    "buys",
    "sells",
    "packs",
    "loses",
    "finds",
    "borrows",
    "plants",
    "paints",
    "stacks",
    "ships",
    "weighs",
    "counts",
]
ASKS = (
    "How many are left after {c} days?", "What is the total price if one costs ${c}$ cents?",
    "Find the mean of the {c} largest heaps.", "In how many ways can {c} of them be chosen?",
    "Compute the remainder modulo ${c}$.", "What fraction of the first {c} heaps is bruised?",
)  # fmt: skip


def problem(rng: random.Random) -> str:
    """A word problem; two of them share phrases, and hardly ever all numbers."""
    people = rng.sample(NAMES, 3)
    parts = [
        f"{person} {rng.choice(VERBS)} {rng.randrange(2, 400)} {rng.choice(GOODS)} {rng.choice(('at noon', 'on Monday', 'in May', 'by train'))}"
        for person in people
    ]
    return f"{', then '.join(parts)}. {rng.choice(ASKS).format(c=rng.randrange(2, 90))}"


def edited(text: str, rng: random.Random) -> str:
    """A fifth of the words is exchanged or moved; numbers stay."""
    words = text.split()
    plain = [i for i, word in enumerate(words) if word.isalpha()]
    chosen = rng.sample(plain, max(1, int(0.2 * len(words))))
    for place in chosen[::2]:
        words[place] = rng.choice(("surely", "thing", "some", "person"))
    for one, two in zip(chosen[1::2], chosen[3::2], strict=False):
        words[one], words[two] = words[two], words[one]
    return " ".join(words)


def planted(rng: random.Random, size: int) -> tuple[list[tuple[str, str]], list[str], set[int]]:
    """Test problems, a training set, and the rows of it that are copies or edits of the first 100."""
    tests = [(f"t/{i}", problem(rng)) for i in range(500)]
    texts = [problem(rng) for _ in range(size)]
    rows = rng.sample(range(size), 100)
    for number, row in enumerate(rows):
        original = tests[number][1]
        texts[row] = edited(original, rng) if number % 2 else original.upper().replace(",", " ; ")
    return tests, texts, set(rows)


@pytest.mark.parametrize("seed", range(3))
def test_planted_copies_and_edits_are_found_among_clean_rows(seed: int) -> None:
    tests, texts, rows = planted(random.Random(seed), 10_000)
    found = {copy.row for copy in TestSets({"test": tests}).copies(texts)}
    assert len(found & rows) == 100
    assert len(found - rows) < 0.001 * len(texts)


def test_a_copy_names_its_problem_and_what_it_shares() -> None:
    long = "Let $n$ be the number of ways to seat 7 people at a round table so that Anna never sits beside Ben"
    sets = TestSets({"a": [("a/1", long)], "b": [("b/1", "What is $2+2$?")]})
    assert sets.names == ("a", "b")
    assert sets.find("what is 2 + 2") == Copy(0, "b", "b/1", "equal", 1.0)
    longer = sets.find(f"Attention, it is easier than it looks, and there are 3 parts. {long}. State also the 5th.")
    assert longer is not None
    assert (longer.test_id, longer.how, longer.share) == ("a/1", "contained", 1.0)
    other = sets.find(
        long.replace("Anna", "Eve").replace("ways", "means").replace("table", "desk").replace("beside", "by")
    )
    assert other is not None
    assert (other.test_id, other.how) == ("a/1", "edited")


def test_a_template_with_other_numbers_and_a_stock_phrase_are_no_copies() -> None:
    phrase = "where $m$ and $n$ are relatively prime positive integers. Find $m+n$."
    ratios = [(goods, f"The ratio of the areas of two {goods} is $m/n$, {phrase}") for goods in GOODS[:5]]
    sets = TestSets({"t": [*ratios, ("sum", "Find 17 + 25 of it.")]})
    assert sets.find(f"Once more: the ratio of the areas of two {GOODS[2]} is $m/n$, {phrase}") is not None
    assert sets.find(f"A die is thrown until a six appears twice; the chance is $m/n$, {phrase}") is None
    assert sets.find("Find 18 + 25 of it.") is None
    assert sets.find("Now find 17 + 25 of it!") is not None


def test_half_of_a_problem_is_enough_and_less_is_not() -> None:
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(47)]  # 40 grams
    sets = TestSets({"t": [("1", " ".join(words))]})
    assert sets.find(" ".join(words[:27])) is not None  # 20 of 40
    assert sets.find(" ".join([*words[:26], "then", "more"])) is None  # 19 of 40


def test_a_problem_of_stock_phrases_alone_counts_with_them() -> None:
    text = "Let $m$ and $n$ be relatively prime positive integers with the sum of the digits of $m/n$"
    sets = TestSets({f"set {i}": [("1", text)] for i in range(6)})
    assert sets.find(f"There are 12 of them. {text}. Add 17.") is not None


def test_equal_means_the_same_letters_and_digits() -> None:
    sets = TestSets({"t": [("1", "Find $x$ of 5 and 7 and 9 and 11 and 13.")]}, "equal")
    assert sets.find("find x, of 5 and 7; and 9 and 11 and 13") is not None
    assert sets.find("find x, of 5 and 7; and 9 and 11 and 13 then") is None


def test_layout_is_no_token() -> None:
    assert tokens_of(r"$\left(\dfrac{1}{2}\right) \text{cm}$") == [
        "(",
        "{",
        "1",
        "}",
        "{",
        "2",
        "}",
        ")",
        "{",
        "cm",
        "}",
    ]
    assert tokens_of(r"\frac12 3.5x") == ["\\frac", "12", "3.5", "x"]


def test_8_000_rows_against_5_000_problems_take_seconds() -> None:
    rng = random.Random(5)
    base = [problem(rng) for _ in range(800)]
    texts = [f"{text} {problem(rng)}" for text in base] * 10
    started = time.process_time()
    # 40,000 rows in under a minute are promised; comparing each row with each problem would take an hour.
    sets = TestSets({"t": [(str(i), problem(rng)) for i in range(5_000)]})
    list(sets.copies(texts))
    assert time.process_time() - started < 60


def test_the_test_sets_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    assert at_hand() == {}
    folder = write_small_data(tmp_path / "data")
    names = {"math500", "gsm8k", "aime24", "aime25", "aime26", "gpqa-diamond", "livecodebench", "minerva", "amc23"}
    assert names <= set(evaluation_sets())
    assert "rulebook" not in evaluation_sets()
    assert names <= set(at_hand(folder))
    monkeypatch.setenv("AIPO_DATA", str(folder))
    assert at_hand()["math500"] == [("own/1", "What is $1+1$?")]
    assert problems_of("aime24-consult", folder)[0] == ("aime24/60", "Find the least $n$.")


def test_the_command_finds_copies_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)
    folder = write_small_data(tmp_path)
    copied = {"problem": "find the least n", "answer": "25", "solution": ""}
    write_jsonl(folder / "deepscaler" / "train.jsonl", [*TRAINING_ROWS["deepscaler"], copied])
    assert data("check", train="deepscaler", against="math500,aime24", data=folder) == 1
    out = capsys.readouterr().out
    assert "deepscaler: 2 problems" in out
    assert "aime24 (3 problems): 1 copies" in out
    assert "math500 (1 problems): 0 copies" in out
    assert "deepscaler/1 is aime24/60 (equal, 100%)" in out
    assert data("check", train="deepscaler", against="math500", data=folder) == 0
    capsys.readouterr()
    assert data("check", train="deepscaler", data=folder, json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["copies"] == [
        {"task": "deepscaler/1", "test_set": "aime24", "test_id": "aime24/60", "how": "equal", "share": 1.0}
    ]
    assert set(found["against"]) >= {"math500", "gpqa-diamond"}
    with pytest.raises(ConfigurationError, match="rulebook has no end"):
        data("check", train="rulebook", against="math500")


def test_gsm8k_trains_on_next_to_nothing_of_its_test(data_folder: Path) -> None:
    path = data_folder / "gsm8k" / "train.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    texts = [json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()]
    found = list(TestSets({"gsm8k": problems_of("gsm8k", data_folder)}).copies(texts))
    # The one is a template with other numbers: "A train travels 270 miles in 3 hours. At the same rate, ...".
    assert [copy.how for copy in found] == ["contained"]


def test_real_test_sets_do_not_stand_in_each_other(data_folder: Path) -> None:
    math500, gsm8k = problems_of("math500", data_folder), problems_of("gsm8k", data_folder)
    found = list(TestSets({"math500": math500}).copies([text for _, text in gsm8k]))
    assert found == []
    own = list(TestSets({"gsm8k": gsm8k}).copies([text for _, text in gsm8k]))
    assert [copy.row for copy in own] == list(range(len(gsm8k)))
    assert all(copy.how == "equal" for copy in own)


def test_a_damaged_test_set_hides_no_training_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_small_data(tmp_path)
    (folder / "math500" / "test.jsonl").write_text('{"question": "of another schema"}\n')
    found = at_hand(folder)
    assert "math500" not in found
    assert len(found) > 1
    assert "math500, whose copy here cannot be read" in caplog.text
