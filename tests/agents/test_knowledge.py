from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aipo_agents import KnowledgeAgent
from aipo_env.errors import ConfigurationError, DataFormatError, DataNotFoundError
from aipo_env.protocol import Agent, ConsultRequest
from aipo_env.tasks.rulebook import COMPOUND, OPERATORS, RulebookTasks, define, evaluate_expansion, expand
from tests.agents.asking import ask

KNOWLEDGE = KnowledgeAgent()


@pytest.mark.parametrize(
    "query",
    ["473@128", " 473@128 ", "473@128=", "473@128=?", "what is 473@128?", "(473@128)#305142", "Compute 473@128."],
)
def test_an_application_is_answered_with_its_expansion_alone(query: str) -> None:
    assert ask(KNOWLEDGE, query) == "4+4+1;7+7+2;3+3+8"


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("digits", [2, 3, 8])
def test_the_expansions_lead_to_the_gold_answer(level: int, digits: int) -> None:
    """A policy that only asks, sums, and puts results in place of what it asked about solves every level."""
    tasks = RulebookTasks(level=level, digits=digits)
    for index in range(15):
        task = tasks.task(index)
        expression = str(task.metadata["expression"])
        for _ in range(6):
            inner = expression[expression.find("(") + 1 : expression.find(")")] if "(" in expression else expression
            reply = ask(KNOWLEDGE, expression)
            assert reply == expand(inner)
            value = evaluate_expansion(reply) if ";" in reply else reply
            expression = expression.replace(f"({inner})", value) if "(" in expression else value
            if expression.isdigit():
                break
        assert expression == task.gold


def test_text_that_only_looks_like_an_application() -> None:
    for query in ("2^3", "5!", "what is 2^3 mod 5?", "is it so?"):
        assert "+" not in ask(KNOWLEDGE, query).split(":")[0] or "nothing found" in ask(KNOWLEDGE, query)
        assert ask(KNOWLEDGE, query) != expand(query)
    assert ask(KNOWLEDGE, "5!473@128") == "4+4+1;7+7+2;3+3+8"


def test_an_operator_with_an_ordinary_meaning_is_no_rulebook_expansion_amid_words() -> None:
    expansion = expand("12^34")
    assert ask(KNOWLEDGE, "12^34") == expansion
    assert ask(KNOWLEDGE, "simplify 12^34").startswith("Laws of exponents: ")
    for options in ({"task_id": "rulebook/l4/train/0/7"}, {"transcript": "The operators of the rulebook work on ..."}):
        assert ask(KNOWLEDGE, "simplify 12^34", **options) == expansion
    assert ask(KNOWLEDGE, "rulebook: 12^34") == expansion
    assert ask(KNOWLEDGE, "simplify 12@34") == expand("12@34")


@pytest.mark.parametrize(
    ("formula", "title"),
    [
        ("sin(a+b)", "Addition formulas for sine and cosine"),
        (r"\sin(\alpha+\beta)", "Addition formulas for sine and cosine"),
        ("p^2-q^2", "Difference of squares"),
        ("(x+y)^3", "Cube of a sum"),
        ("n!/(k!(n-k)!)", "Combinations"),
    ],
)
def test_a_formula_is_found_by_its_shape(formula: str, title: str) -> None:
    assert ask(KNOWLEDGE, formula).startswith(title)


def test_a_second_entry_is_shown_only_where_the_first_is_not_clearly_best() -> None:
    assert "\n" not in ask(KNOWLEDGE, "b^2-4ac")
    assert ask(KNOWLEDGE, "sum of the first n squares").count("\n") == 1
    assert ask(KnowledgeAgent(margin=1), "sum of the first n squares").count("\n") == 0
    assert ask(KnowledgeAgent(margin=99), "b^2-4ac").count("\n") == 1


def test_numbers_and_single_signs_find_nothing() -> None:
    assert ask(KNOWLEDGE, "12 + 34 =").startswith("nothing found")


def test_operands_of_different_length() -> None:
    assert ask(KNOWLEDGE, "47@128") == (
        "cannot expand 47@128: the operands of @ need equally many digits, these have 2 and 3"
    )


@pytest.mark.parametrize("symbol", [*OPERATORS, *COMPOUND])
def test_a_symbol_gives_the_definition(symbol: str) -> None:
    assert ask(KNOWLEDGE, symbol) == define(symbol)
    assert ask(KNOWLEDGE, f"what is the operator {symbol}?") == define(symbol)
    # The same rule can be found by its words.
    name = OPERATORS[symbol].name if symbol in OPERATORS else f"operator stands for {COMPOUND[symbol]}"
    assert define(symbol) in ask(KNOWLEDGE, f"rulebook operator {name}")


def test_rule_in_words_instead_of_the_expansion() -> None:
    assert ask(KnowledgeAgent(expand=False), "473@128") == define("@")


def test_without_the_rulebook() -> None:
    agent = KnowledgeAgent(rulebook=False)
    assert "4+4+1" not in ask(agent, "473@128")
    assert ask(agent, "rulebook operator twin").startswith("nothing found")


def test_unknown_topics_are_said_to_be_unknown() -> None:
    for query in ("banana pancakes recipe", "asdfgh", "solve", "💥", ""):
        assert ask(KNOWLEDGE, query).startswith("nothing found")
    assert ask(KnowledgeAgent(min_score=1000), "pythagorean theorem").startswith("nothing found")
    assert not ask(KnowledgeAgent(min_score=0), "x").startswith("nothing found")


def test_top_k_and_max_chars() -> None:
    one, three = KnowledgeAgent(top_k=1), KnowledgeAgent(top_k=3, max_chars=5000)
    assert ask(one, "law of cosines").startswith("Law of cosines: c^2 = a^2 + b^2 - 2ab cos C.")
    assert "\n" not in ask(one, "sum of the first n squares")
    assert ask(three, "sum of the first n squares").count("\n") == 2
    for max_chars in (40, 80, 200):
        text = ask(KnowledgeAgent(top_k=3, max_chars=max_chars), "sum of the first n squares")
        assert 0 < len(text) <= max_chars
    assert len(ask(KnowledgeAgent(max_chars=40), "12345678@87654321")) == 47  # an expansion is never cut


def test_a_folder_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "zoo.md").write_text("# Zoo\n\n## Okapi\nkeywords: giraffe, forest\nLives in the Congo.\n\n## Empty\n")
    (tmp_path / "sub" / "bird.txt").write_text("Kiwi\nA bird that cannot fly.")
    (tmp_path / "more.jsonl").write_text(
        '{"title": "Axolotl", "text": "Stays young.\\u2028Always.", "keywords": ["salamander"]}\n\n'
    )
    (tmp_path / "whole.md").write_text("# Quokka\nSmiles.")
    (tmp_path / "ignored.csv").write_text("a,b")
    agent = KnowledgeAgent(corpus=tmp_path, min_score=0.1)
    assert ask(agent, "giraffe") == "Okapi: Lives in the Congo."
    assert ask(agent, "salamanders") == "Axolotl: Stays young.\u2028Always."
    assert ask(agent, "a bird?") == "Kiwi: A bird that cannot fly."
    assert ask(agent, "quokka") == "Quokka: Smiles."
    assert ask(agent, "473@128") == "4+4+1;7+7+2;3+3+8"
    assert ask(agent, "pythagorean theorem").startswith("nothing found")
    assert ask(KnowledgeAgent(corpus=str(tmp_path / "zoo.md"), min_score=0.1), "forest").startswith("Okapi")


def test_a_corpus_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="does not exist"):
        KnowledgeAgent(corpus=tmp_path / "nowhere")
    with pytest.raises(DataFormatError, match="found no such file"):
        KnowledgeAgent(corpus=tmp_path)
    (tmp_path / "empty.md").write_text(" \n")
    with pytest.raises(DataFormatError, match="all of them empty"):
        KnowledgeAgent(corpus=tmp_path)
    for name, content, message in (
        ("a.jsonl", b'{"title": "x"}', r"a\.jsonl:1 needs the non-empty strings"),
        ("a.jsonl", b'{"title": "x", "text": "y"}\n{"title"', r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", b"[1]", "holds a list"),
        ("a.jsonl", b'{"title": "x", "text": "y", "keywords": 3}', "'keywords' must be"),
        ("a.jsonl", b"[" * 100_000, "is not JSON"),
        ("b.txt", b"\xff\xfe\x00", "is not UTF-8"),
        ("c.pdf", b"%PDF", r"is a \.pdf file"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataFormatError, match=message):
            KnowledgeAgent(corpus=path)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"top_k": 1.5},
        {"top_k": True},
        {"max_chars": 10},
        {"min_score": -1},
        {"min_score": "3"},
        {"name": ""},
        {"margin": 0.5},
        {"margin": True},
    ],
)
def test_options_are_validated(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="KnowledgeAgent: "):
        KnowledgeAgent(**options)  # type: ignore[arg-type]


def test_concurrent_calls_on_a_fresh_agent() -> None:
    agent = KnowledgeAgent()
    queries = ["473@128", "law of sines", "chain rule", "@"] * 25

    async def all_at_once() -> list[str]:
        return [reply.text for reply in await asyncio.gather(*(agent.respond(ConsultRequest(q)) for q in queries))]

    assert asyncio.run(all_at_once()) == [ask(KNOWLEDGE, query) for query in queries]


def test_it_is_an_agent() -> None:
    assert isinstance(KNOWLEDGE, Agent)
    assert KNOWLEDGE.name == "knowledge"
