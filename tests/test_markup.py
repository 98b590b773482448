from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aipo_env.grading import extract_answer, grade_text
from aipo_env.markup import _NO_ACTION, ActionParser, escape, parse, render
from aipo_env.protocol import Answer, Consult, Malformed

AGENTS = ("verify", "knowledge")
PIECES = st.sampled_from(
    [
        '<consult agent="verify">', '<consult agent="knowledge">', '<consult agent="nobody">', "<consult>", "</consult>",
        '<feedback agent="verify">', "</feedback>", "<notice>", "</notice>", "<answer>", "</answer>", "\\boxed{", "\\boxed {",
        "{", "}", "\\{", "\\}", "\\\\", "\\", "<", ">", "</", "<con", "agent=", "x", " ", "\n", "5", "é", "数",
    ]
)  # fmt: skip
BLOCK = "```python\nprint(1)\n```"
ASK = '<consult agent="verify">q</consult>'
MESSY = st.lists(PIECES, max_size=40).map("".join)
FENCES = st.sampled_from(
    ["```python\n", "\n```\n", "```", "```\n", "  ```py\n", "````\n", "```cpp\n", "print(1)\n", "\nx = '`'\n"]
)
PROGRAMS = st.lists(st.one_of(PIECES, FENCES, FENCES), max_size=30).map("".join)
CLEAN = st.text(alphabet=st.characters(exclude_characters="<\\{}", exclude_categories=("Cs",)), max_size=40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{\frac{1}{2}}.", Answer(r"\frac{1}{2}", "so ")),
        ("<answer> B </answer>", Answer("B")),
        ('Hm. <consult agent="verify">1+1=3</consult>', Consult("verify", "1+1=3", "Hm. ")),
        # the first complete tag decides what the turn is
        (
            r'<consult agent="verify">is \boxed{3} right?</consult> \boxed{4}',
            Consult("verify", r"is \boxed{3} right?"),
        ),
        (r'\boxed{4} <consult agent="verify">q</consult>', Answer("4")),
        # the last answer of an answer turn counts
        (r"\boxed{3}? No: \boxed{4}", Answer("4", r"\boxed{3}? No: ")),
        # a consult replaces the answer that it opens in
        (r'\boxed{4 <consult agent="verify">q</consult>', Consult("verify", "q", r"\boxed{4 ")),
        (r'\boxed{4 <consult agent="verify">q}</consult>', Consult("verify", "q}", r"\boxed{4 ")),
        ('<answer>4 <consult agent="verify">q</answer></consult>', Consult("verify", "q</answer>", "<answer>4 ")),
        (r'\boxed{4 <consult agent="verify">q}', Answer('4 <consult agent="verify">q')),
        # what the policy writes into a reply of its own is no answer
        (
            r'<feedback agent="verify">\boxed{3}</feedback>\boxed{4}',
            Answer("4", r'<feedback agent="verify">\boxed{3}</feedback>'),
        ),
        (r"\boxed{a\}b}", Answer(r"a\}b")),
        # a doubled backslash is how a model that thinks in JSON writes it
        (r"\\boxed{5}", Answer("5", "\\")),
        (r"\boxed{\\{5}}", Answer(r"\\{5}")),
    ],
)
def test_parse(text: str, expected: Consult | Answer) -> None:
    assert parse(text, AGENTS) == expected


OPEN = [
    "I could use <consult> but no. ",
    'I could use <consult agent="verify"> but no. ',
    '<consult agent="nobody"> hm. ',
    "<consult verify> </consult> ",
    "first <answer> tag, then ",
    r"so \boxed{a{ no. ",
    r"so \boxed{a ",
    '<feedback agent="verify"> hm. ',
    "<notice> hm. ",
    r"</consult> </answer> } <answer> \boxed{ <notice> <feedback> ",
]


@pytest.mark.parametrize("before", OPEN)
@pytest.mark.parametrize("consults", [True, False])
@pytest.mark.parametrize("behind", ["", " </feedback>", " I am sure."])
def test_repair_08_what_never_closes_hides_no_answer_behind_it(before: str, consults: bool, behind: str) -> None:
    for answer in (r"\boxed{\frac{1}{2}}", r"<answer>\frac{1}{2}</answer>"):
        if "<feedback" in before and "</feedback" in behind:
            continue
        found = parse(before + answer + behind, AGENTS, consults=consults)
        assert found == Answer(r"\frac{1}{2}", before)
        assert parse(render(found), AGENTS, consults=consults) == found
    program = parse(f"{before}\n{BLOCK}\n", AGENTS, consults=consults, answers="program")
    assert program == Answer(BLOCK, f"{before}\n")


@pytest.mark.parametrize("before", OPEN)
def test_repair_08_what_never_closes_hides_no_consult_behind_it(before: str) -> None:
    assert parse(f"{before}{ASK} more", AGENTS) == Consult("verify", "q", before)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # a tag closes the nearest one of its kind; what was open inside it is text
        (r'\boxed{1} <feedback agent="verify">\boxed{2} <notice>\boxed{3}</feedback> </notice>', "1"),
        (r'<feedback agent="verify"><notice>x</notice>\boxed{2}</feedback>\boxed{3', None),
        (r'<feedback agent="verify">\boxed{2} <feedback agent="verify">\boxed{3}</feedback>', "2"),
        (r'<feedback agent="verify">\boxed{2}</notice>', "2"),
        (r"<notice>\boxed{2}</feedback></notice>", None),
        # an answer around another one counts, one beside it only if it is the last
        (r"<answer>\boxed{1} or <answer>2</answer>", "2"),
        (r"<answer>1 or \boxed{2}</answer>", r"1 or \boxed{2}"),
        (r"\boxed{1 or <answer>2</answer>}", "1 or <answer>2</answer>"),
        (r"\boxed{1 or <answer>2}</answer>", "1 or <answer>2"),
        (r"\boxed{a{ <answer>2}</answer>", "2}"),
        (r"{ \boxed{1} } }", "1"),
        (r"<answer>\boxed{5</answer> }", r"\boxed{5"),
        # nor does one count that a tag opened inside it outlives
        (r'\boxed{1 <feedback agent="verify">} </feedback>', None),
        (r'\boxed{1} <answer>2 <feedback agent="verify"></answer> \boxed{3}</feedback>', "1"),
        (r'\boxed{1 <feedback agent="verify">}', '1 <feedback agent="verify">'),
    ],
)
def test_repair_08_the_last_complete_answer_counts(text: str, answer: str | None) -> None:
    for consults in (True, False):
        found = parse(text, AGENTS, consults=consults)
        assert (found.text if isinstance(found, Answer) else None) == answer


def test_repair_08_a_consult_of_ones_own_is_inert_in_solo() -> None:
    text = r'<consult agent="verify">\boxed{1} \boxed{2</consult> <consult agent="verify">\boxed{3}'
    assert parse(text, AGENTS, consults=False) == Answer("3", text.removesuffix(r"\boxed{3}"))
    assert parse("<consult>q</consult>", AGENTS, consults=False) == Malformed(_NO_ACTION, "<consult>q</consult>")
    within = f'<feedback agent="verify"><notice>```</notice>x</feedback>\n{BLOCK}'
    assert parse(within, AGENTS, consults=False, answers="program") == Answer(BLOCK, within.removesuffix(BLOCK))
    nested = r'<consult agent="verify">\boxed{1}<consult agent="verify">\boxed{2}</consult>'
    assert parse(nested, AGENTS, consults=False) == Answer("1", '<consult agent="verify">')


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither a consult tag nor an answer"),
        ("I think it is 5.", "neither a consult tag nor an answer"),
        (r"\boxed{5", "braces"),
        ("<answer>5", "</answer>"),
        ('<consult agent="verify">q', "not closed with </consult>"),
        ('<consult agent="nobody">q</consult>', "no helper called 'nobody'. Helpers: verify, knowledge"),
        ("<consult>q</consult>", "names its helper"),
        ('<consult agent="verify"> </consult>', "empty"),
        ('<feedback agent="verify">5', "inside a <feedback> that only the environment writes"),
        ("<notice>5", "inside a <notice> that only the environment writes"),
        ('<answer>5 <consult agent="verify">q', "not closed with </consult>"),
    ],
)
def test_malformed_turns_say_why(text: str, reason: str) -> None:
    found = parse(text, AGENTS)
    assert isinstance(found, Malformed)
    assert reason in found.reason


def test_solo_turns_have_no_consults_and_ignore_answers_inside_self_written_help() -> None:
    text = r'<consult agent="verify">\boxed{1}</consult><feedback agent="verify">\boxed{2}</feedback>\boxed{3}'
    assert parse(text, AGENTS, consults=False) == Answer("3", text.removesuffix(r"\boxed{3}"))
    inside = parse(r'<consult agent="verify">\boxed{1}</consult>', AGENTS, consults=False)
    assert isinstance(inside, Malformed)


@given(MESSY, MESSY)
def test_a_consult_ends_at_its_closing_tag_whatever_follows(text: str, behind: str) -> None:
    parser = ActionParser(AGENTS)
    action = parser.parse(text)
    if parser.consult_span is None:
        assert not isinstance(action, Consult)
        return
    _, end = parser.consult_span
    assert text[:end].endswith("</consult>")
    again = ActionParser(AGENTS)
    assert type(again.parse(text[:end] + behind)) is type(action)
    assert again.consult_span == parser.consult_span


@given(MESSY)
def test_parse_undoes_render(text: str) -> None:
    action = parse(text, AGENTS)
    assert parse(render(action), AGENTS) == action


@given(MESSY, PROGRAMS)
@example(rf"{ASK}\boxed{{</answer>}}", "")
def test_parse_undoes_render_in_solo_turns(text: str, program: str) -> None:
    for turn, answers in ((text, "value"), (program, "program")):
        action = parse(turn, AGENTS, consults=False, answers=answers)
        assert parse(render(action, consults=False, answers=answers), AGENTS, consults=False, answers=answers) == action


@given(CLEAN, CLEAN.map(str.strip), st.sampled_from(AGENTS))
def test_structured_actions_survive_the_trip_through_text(prefix: str, text: str, agent: str) -> None:
    assert parse(render(Answer(text, prefix)), AGENTS) == Answer(text, prefix)
    if text:
        assert parse(render(Consult(agent, text, prefix)), AGENTS) == Consult(agent, text, prefix)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a fenced block is an answer where nothing else is
        (f"So:\n{BLOCK}\nDone.", Answer(BLOCK, "So:\n")),
        ("So:\n  ```\n  x\n  ```  \n", Answer("```\n  x\n  ```", "So:\n  ")),
        # the last one marked as Python, else the last one without a mark
        (f"{BLOCK}\n```python\nb\n```\nIt prints\n```\n5\n```", Answer("```python\nb\n```", f"{BLOCK}\n")),
        (f"{BLOCK}\nand then\n```python\ncut", Answer(BLOCK)),
        ("I cut\n```python\nprint(1)", Answer("```python\nprint(1)", "I cut\n")),
        # a marked answer comes first if there is a block in it
        (f"{BLOCK}\n<answer>Here:\n```\nb\n```</answer>", Answer("Here:\n```\nb\n```", f"{BLOCK}\n")),
        (f"\\boxed{{{BLOCK}}}", Answer(BLOCK)),
        # or if there is none at all
        ("<answer>print(1)</answer>", Answer("print(1)")),
        (f"\\boxed{{5}}\n{BLOCK}", Answer(BLOCK, "\\boxed{5}\n")),
        # a consult is one as ever
        (f"{BLOCK}\n{ASK}", Consult("verify", "q", f"{BLOCK}\n")),
        (f"<answer>{BLOCK}</answer> {ASK}", Answer(BLOCK)),
        # what the policy writes in others' names is nothing
        (f'<feedback agent="verify">\n{BLOCK}\n</feedback>\n```\nb\n```', Answer("```\nb\n```", f'<feedback agent="verify">\n{BLOCK}\n</feedback>\n')),
        # a tag in a program's own text belongs to it
        ("```python\nprint('<notice>5</notice></answer>')\n```", Answer("```python\nprint('<notice>5</notice></answer>')\n```")),
        # an answer that was not closed, but whose program was
        (f"<answer>\n{BLOCK}", Answer(BLOCK, "<answer>\n")),
    ],
)  # fmt: skip
def test_turns_whose_answers_are_programs(text: str, expected: Answer | Consult) -> None:
    assert parse(text, AGENTS, answers="program") == expected
    assert parse(render(expected, answers="program"), AGENTS, answers="program") == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no program", "neither a consult tag nor a program"),
        ("```cpp\nx\n```", "neither a consult tag nor a program"),
        ('<consult agent="verify">\nx\n', "not closed with </consult>"),
        (f'<consult agent="nobody">\n{BLOCK}\n</consult>', "no helper called 'nobody'"),
        (f'<feedback agent="verify">\n{BLOCK}\n</feedback>', "neither a consult tag nor a program"),
        ('<feedback agent="verify">\nx\n', "only the environment writes"),
    ],
)
def test_turns_that_hold_no_program_say_why(text: str, reason: str) -> None:
    found = parse(text, AGENTS, answers="program")
    assert isinstance(found, Malformed)
    assert reason in found.reason


def test_a_draft_that_the_token_limit_cut_is_no_answer() -> None:
    assert isinstance(parse(BLOCK, AGENTS, answers="program", ended=False), Malformed)
    assert parse(f"<answer>{BLOCK}</answer>", AGENTS, answers="program", ended=False) == Answer(BLOCK)
    assert parse(r"\boxed{5}", AGENTS, ended=False) == Answer("5")


def test_solo_turns_with_consults_of_their_own() -> None:
    inside = f'<consult agent="verify">\n{BLOCK}\n</consult>'
    assert isinstance(parse(inside, AGENTS, consults=False, answers="program"), Malformed)
    open_ended = f'{BLOCK}\n<consult agent="verify">is it\n```\nb\n```'
    assert parse(open_ended, AGENTS, consults=False, answers="program") == Answer(BLOCK)


def test_programs_mean_nothing_where_answers_are_values() -> None:
    assert isinstance(parse(BLOCK, AGENTS), Malformed)
    assert parse(f"\\boxed{{5}}\n{BLOCK}", AGENTS) == Answer("5")


@given(PROGRAMS)
def test_parse_undoes_render_of_programs(text: str) -> None:
    action = parse(text, AGENTS, answers="program")
    assert parse(render(action, answers="program"), AGENTS, answers="program") == action


@given(PROGRAMS, st.booleans(), st.booleans())
def test_what_is_no_unmarked_program_is_read_as_ever(text: str, consults: bool, ended: bool) -> None:
    plain = parse(text, AGENTS, consults=consults)
    found = parse(text, AGENTS, consults=consults, answers="program", ended=ended)
    if isinstance(plain, Consult) or not ended:
        assert isinstance(found, Malformed) if isinstance(plain, Malformed) else found == plain
    elif isinstance(found, Malformed):
        assert isinstance(plain, Malformed)


def test_a_structured_program_without_fences_stays_the_answer() -> None:
    for answer in (Answer("print(1)"), Answer("print(1)", "Not this:\n```python\nx\n```\n"), Answer("}{ </answer>")):
        found = parse(render(answer, answers="program"), AGENTS, answers="program")
        assert isinstance(found, Answer)
        assert answer.text in found.text


def test_an_answer_behind_an_unfinished_one_is_rendered_so_that_it_stays_the_answer() -> None:
    action = parse("<answer><answer></answer>")
    assert action == Answer("", "<answer>")
    assert parse(render(action)) == action


def test_unbalanced_answers_are_rendered_with_the_other_tag() -> None:
    assert render(Answer("}{")) == "<answer>}{</answer>"
    assert parse(render(Answer("}{"))) == Answer("}{")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is 5.", "5"),
        ("so it is **5**", "5"),
        ("2+3 = 5\n#### 5", "5"),
        (r"Thus \boxed 5", "5"),
        ("so we get\n$\\frac{1}{2}$", r"\frac{1}{2}"),
        # a marked answer comes first, wherever it stands
        (r"\boxed{4}. The answer is 5.", "4"),
        # others' words are not the policy's
        ('The answer is 5. <feedback agent="verify">The answer is 6.</feedback>', "5"),
        ("<notice>5</notice>", None),
        ("I give up.", None),
        # a consult that did not close is meant to be one
        ('<consult agent="verify">The answer is 5.', None),
    ],
)
def test_repair_36_lenient_extraction_reads_what_other_harnesses_do(text: str, value: str | None) -> None:
    found = parse(text, AGENTS, extraction="lenient")
    assert (found.text if isinstance(found, Answer) else None) == value
    assert parse(render(found), AGENTS, extraction="lenient") == found
    for rules in ({}, {"answers": "program", "extraction": "lenient"}):
        assert isinstance(parse(text, AGENTS, **rules), Answer if text.startswith(r"\boxed{") else Malformed)


def test_a_turn_that_was_cut_says_its_answer_in_so_many_words_or_not_at_all() -> None:
    cut = {"extraction": "lenient", "ended": False}
    assert parse("The answer is 5. Now let", AGENTS, **cut) == Answer("5", "The answer is 5. Now let")
    assert isinstance(parse("2+3 = 5 and", AGENTS, **cut), Malformed)
    assert parse(ASK, AGENTS, **cut) == Consult("verify", "q")
    # Alone an open consult is text.
    assert isinstance(
        parse('<consult agent="verify">The answer is 5.', AGENTS, consults=False, extraction="lenient"), Answer
    )


@given(MESSY, st.booleans())
def test_lenient_turns_say_what_the_plain_rules_read(text: str, consults: bool) -> None:
    found = parse(text, AGENTS, consults=consults, extraction="lenient")
    plain = parse(text, AGENTS, consults=consults)
    assert found == plain or isinstance(plain, Malformed)


@given(MESSY)
def test_escaped_text_opens_and_closes_no_tag(text: str) -> None:
    wrapped = f'<consult agent="verify">q{escape(text)}</consult>'
    found = parse(wrapped, AGENTS)
    assert isinstance(found, Consult)
    without_boxes = escape(text).replace("\\", "")
    assert parse(without_boxes, AGENTS) == Malformed(_NO_ACTION, without_boxes)


@pytest.mark.parametrize(
    "unit",
    [
        '<consult agent="verify">',
        "\\boxed{",
        "{",
        "<",
        "\\",
        "<consult ",
        "</consult",
        "<answer>",
        "<feedback ",
        "```\n",
        "```python\nx\n```\n",
        "<notice></notice>",
        '<feedback agent="verify"><notice>\\boxed{{<consult agent="verify"><answer>',
        '<feedback agent="verify">\\boxed{{</feedback></notice>',
        "\\boxed{{<answer>}</answer>",
    ],
)
def test_no_text_makes_the_parser_hang(unit: str) -> None:
    """A million characters take well under a second; a parser that is not linear would take minutes."""
    text = unit * (1_000_000 // len(unit))
    start = time.perf_counter()
    parse(text, AGENTS)
    parse(text, AGENTS, answers="program")
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "text",
    [r"\boxed{1} \boxed{2}", r"so \boxed{1} and \boxed{2}", r"\boxed{3} so \boxed{4}", r"$\boxed{1}$, $\boxed{2}$",
     r"\boxed{4} or \boxed{5}", r"\boxed{7}, \boxed{7}", r"<answer>\boxed{1} and \boxed{2}</answer>", r"\boxed{5}."],
)  # fmt: skip
def test_an_answer_is_found_as_the_grader_finds_it(text: str) -> None:
    action = parse(text)
    assert isinstance(action, Answer)
    found = extract_answer(text)
    assert found is not None
    assert grade_text(found, text).correct
    assert extract_answer(rf"\boxed{{{action.text}}}") == found
    again = parse(render(action))
    assert isinstance(again, Answer)
    assert (again.text, again.prefix) == (action.text, action.prefix)
