from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aipo_agents import VerifyAgent
from aipo_agents.verdicts import leading_verdict
from aipo_agents.verify import EMPTY_SIDE, NO_CLAIM
from aipo_env.errors import ConfigurationError
from aipo_env.protocol import Agent, ConsultRequest
from aipo_env.tasks.rulebook import RulebookTasks, evaluate_expansion, expand
from tests.agents.asking import ask

VERIFY = VerifyAgent(timeout=20)

CORRECT = [
    "17+25=42",
    "42 = 17+25",
    "x^2-1=(x-1)(x+1)",
    r"\frac12+\frac13=\frac56",
    r"$\frac{1}{2} + \frac{1}{3} = \frac{5}{6}$",
    "4+4+1=9",
    "4+4+1=09",
    "4+4+1;7+7+2;3+3+8=091614",
    "2+3*4=14=7*2",
    "3/4<4/5",
    "1 < 2 < 3 <= 3",
    "2^10=1024",
    "-2^2=-4",
    "2^3^2=512",
    "5!=120",
    "5 != 24",
    "|3-5|=2",
    "gcd(12,18)=6",
    "110_2=6_8",
    r"629_{10} < 7^4",
    r"90^3=729,\!000",
    "2x+3x=5x",
    "C(5,2)=10",
    r"\binom{5}{2} = 10",
    "17 mod 5 = 2",
    "3^105 + 4^105 mod 11 = 2",
    "0 = 2 - 12 mod 5",
    "17 = 2 mod 5",
    r"17 + 5 = 7 = 2 \pmod 5",
    "17 ≡ 2 (mod 5)",
    r"17 \equiv 2 \pmod 5",
    r"3 \mid 12",
    "15% of 80 = 12",
    "0.1+0.2=0.3",
    "1,000+1=1001",
    "22/7 ≈ 3.14",
    r"\sqrt2\approx1.414",
    r"\sqrt{8}=2\sqrt2",
    r"\sqrt2\cdot\sqrt3=\sqrt6",
    r"\frac{1}{\sqrt2}=\frac{\sqrt2}{2}",
    r"\log_2 8=3",
    r"\lfloor 7/2\rfloor=3",
    r"\sin^2 x+\cos^2 x=1",
    "(a+b)^3=a^3+3a^2b+3ab^2+b^3",
    "(x^2-1)/(x-1)=x+1",
    "x²−1=(x−1)(x+1)",
    "x^2>=0",
    "x^2+1>=2x",
    "Is 17+25=42?",
    "So we get 17 + 25 is 42 apples.",
    "since (1+1=2) holds",
    r"\boxed{3+4=7}",
    "x=10/2=5",
]

INCORRECT = {
    "17+25=43": "17+25 is 42",
    "43=17+25": "17+25 is 42",
    "4+4+1=08": "4+4+1 is 09",
    "4+4+1=19": "4+4+1 is 09",
    "4+4+1=8": "4+4+1 is 9",
    "4+4+1;7+7+2;3+3+8=091714": "7+7+2 is 16",
    "4+4+1;7+7+2=09164": "2 places make 4 digits, not 5",
    "1+1=2=3": "2 is not 3",
    "2+2=3+3": "2+2 is 4, 3+3 is 6",
    "2<1": "2 is not less than 1",
    "1<3<2": "3 is not less than 2",
    "5!=121": "5! is 120",
    "1/4=0.26": "1/4 is not 0.26",
    "1/3=0.333": "1/3 is not exactly 0.333",
    r"\frac{1}{2} + \frac{1}{3} = \frac{5}{7}": r"\frac{1}{2} + \frac{1}{3} is 5/6",
    r"17 \equiv 3 \pmod 5": "17 leaves the remainder 2 modulo 5",
    "17 = 3 mod 5": "17 leaves the remainder 2 modulo 5",
    "1 + 17 mod 5 = 2": "1 + 17 \\bmod 5 is 3",
    r"5 \mid 12": "the remainder is 2",
    "x^2-1=(x-1)(x+2)": "not true for all x: at x=2 the left side is 3, the right side 4",
    "2x+3x=6x": "not true for all x: at x=2 the left side is 10, the right side 12",
    "(x+1)^2=x^2+1": "not true for all x: at x=2 the left side is 9, the right side 5",
    r"\sqrt{2}=1.414": r"\sqrt{2} is about 1.41421",
    "10^16=sqrt(10^32+1)": "the sides are close but differ",
    "3+4=7 and 7*2=15": "7*2 is 14",
    "2x+3=7 so x=3": "at x=3 the left side is 9, the right side 7",
    "x^2-5x+6=0, x=2 or x=4": "at x=4 the left side is 2, the right side 0",
}

CANNOT_TELL = {
    "10^400 ~= 10^400*1.1": "cannot tell: its numbers are too large",
    "x*10^400 + 1 = x*10^400 + 2": "cannot tell: whether it holds depends on x; add a value such as x=2 to test",
    "hello": NO_CLAIM,
    "": NO_CLAIM,
    "47*12": NO_CLAIM,
    "47*12=": EMPTY_SIDE,
    "47*12=?": EMPTY_SIDE,
    "473@128": "cannot tell: operator @ is not arithmetic; ask knowledge",
    "473@128=091614": "cannot tell: operator @ is not arithmetic; ask knowledge",
    "473@128=4+4+1;7+7+2;3+3+8": "cannot tell: operator @ is not arithmetic; ask knowledge",
    "473@128=4+4+1;7+7+2;3+3+8=091614": (
        "cannot tell: operator @ is not arithmetic; ask knowledge; the rest is correct"
    ),
    "!473=040710": "cannot tell: operator ! is not arithmetic; ask knowledge",
    "1/0=3": "cannot tell: division by zero",
    "0^0=1": "cannot tell: 0^0 has no agreed value",
    "6/2(1+2)=9": "cannot tell: I cannot read '6/2(1+2)': a/bc can be read in two ways; add brackets",
    "2x+3=7": "cannot tell: whether it holds depends on x; add a value such as x=2 to test",
    "x=5": "cannot tell: it says what x is; give the equation to test it in as well",
    "the root of 25 = 5": "cannot tell: I cannot read 'of 25': unexpected 'of'",
    "3 and 4 = 7": "cannot tell: nothing says how 4 makes 7",
    "eval(1)=1": "cannot tell: I cannot read 'eval(1)': unexpected 'eval'",
    # conditions of real solutions: not claims that one side is another form of the other
    "2n+1=3n-6": "cannot tell: whether it holds depends on n; add a value such as n=2 to test",
    "AB=CD": "cannot tell: whether it holds depends on A, B, C, D; add a value such as A=2 to test",
    "x^2>2x": "cannot tell: whether it holds depends on x; add a value such as x=2 to test",
    "x^4+1>x": "cannot tell: it holds at the 10 points tried, which is no proof",
    "(n-1)n<6^{n-3}": ("cannot tell: it needs a condition: at n=2 the left side is 2, the right side 1/6"),
    "17 mod 5 + 3 = 5": "cannot tell: I cannot read '17 \\bmod 5 + 3': a mod b + c can be read in two ways; add brackets",
    "e=16/5": "cannot tell: e may be a name here; write e ~= 2.718 for the constant",
    "1/3=0.333...": "cannot tell: I cannot read '0.333...': unexpected '...'",
    "102_2=3": "cannot tell: a side has no value",
    r"a \equiv b \pmod{n}": "cannot tell: a congruence needs a modulus, such as (mod 5)",
    "f(2)=4": "cannot tell: f is an unknown function",
}


# What models write: money, units, calculator marks, percentages, words that calculate.
WORK = {
    r"He pays \$18 x4 = \$72": r"correct: \$18 * 4=\$72",
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.": "correct: all 2 claims: 48/2=24; 48/2=24 clips in May",
    "Natalia sold 48/2 = <<48/2=25>>25 clips in May.": "incorrect: 48/2 is 24",
    "half of 48 is 24": "correct",
    "half of 48 is 23": "incorrect: (1/2) * 48 is 24",
    "two thirds of the 12 eggs is 8": "correct: (2/3) * 12 eggs=8",
    "3 times 4 is 13": "incorrect: 3 * 4 is 12",
    "The product of 3 and 4 is 12": "correct: (3*4)=12",
    "20% of 50 is 10": "correct",
    "20% of 50 is 20": "incorrect: 20% * 50 is 10",
    "5/20 = 25%": "correct",
    "100% - 20% = 80%": "correct",
    "50 + 10% = 55": "correct",
    "50 + 10% = 60": "incorrect: 50 + 10% is 501/10",
    "2 1/2 + 1 1/2 = 4": "correct",
    "3:4 = 9:12": "correct",
    "3:4 = 9:13": "incorrect: 3:4 is 3/4, 9:13 is 9/13",
    "5 feet + 3 inches = 63 inches": "correct: 5 feet + 3 inches=63 inches",
    "5 feet = 50 inches": "incorrect: 5 feet is not 50 inches",
    "2 weeks = 15 days": "incorrect: 2 weeks is not 15 days",
    "25 cents * 4 = $1": "correct: 25 cents * 4=$1",
    "3 dozen = 36": "correct: 3 dozen=36",
    "8 hours (60 minutes each) * 3 = 24 hours": "correct: 8 hours (60 minutes each) * 3=24 hours",
    "The total is 12 + the 3 others = 16": "incorrect: 12 + the 3 others is 15",
    "He pays $10/3 = $3.33": "correct: $10/3=$3.33",
    "They need 7/2 = 4 buses": "cannot tell: 7/2 is 3.5, before rounding",
    r"$\sum_{k=1}^{10} k = 55$ and $\int_0^1 x^2\,dx = \frac13$": "correct: all 2 claims",
    r"The number of pairs is $\binom{5}{2} = 11$.": r"incorrect: \binom{5}{2} is 10",
    r"The area is $(5\text{ cm})(3\text{ cm}) = 15\text{ cm}^2$.": "correct: (5 cm )(3 cm )=15 cm ^2",
    r"$\angle A = 180^\circ - 64^\circ = \boxed{116^\circ}$": "correct",
    "f(x)=2x+1, so f(3)=7": "correct: f(3)=7; not checked: f(x)=2x+1",
    "f(x)=2x+1, so f(3)=8": "incorrect: the left side is 7, the right side 8",
    "y = 2x+1 and x = 3, so y = 7": "correct: all 3 claims",
    "From 3m + 4n = 100 follows 6m + 8n = 200": "correct: 6m + 8n=200; not checked: 3m + 4n=100 follows",
    # What the words say beside the numbers is nobody's claim.
    "The perimeter of a square of side 5 is 20": NO_CLAIM,
    "She has 3 boxes of 4 = 12": "cannot tell: I cannot read 'of 4': unexpected 'of'",
    "5 more than 3*2 = 11": "cannot tell: I cannot read 'than 3*2': unexpected 'than'",
    "The price for 3 boxes = 3*5": "cannot tell: 3 boxes may belong to the words beside it",
    "multiply by 2: 16 feet * 2 = 32 feet": "correct: 16 feet * 2=32 feet",
    "A 30-60-90 triangle is 1": NO_CLAIM,
    "Half of the sum of 3 and 5 is 4": "correct",
    "The square of the sum of 3 and 5 is 64": "cannot tell: I cannot read 'the (3+5)': unexpected 'the'",
    "2 hours 30 minutes = 150 minutes": "cannot tell: I cannot read 'hours 30 minutes': unexpected 'hours'",
    "1/2 = 0.5%": "incorrect: 0.5% is 1/200",
    "5/20*100 = 25%": "correct",
    "log(100) = 2": "correct",
    "ln(e) = 1": "correct",
    "If n = 3 then n^2 = 9. If n = 4 then n^2 = 16.": "correct: all 4 claims",
    "x^2 = 9 so x = 3 or x = 4": "incorrect: at x=4 the left side is 16, the right side 9",
    "gcd(378,315) = 63": "correct",
    "Solving for x yields -x+6 = x-10, so x=8": "correct: all 2 claims: -x+6=x-10; x=8",
    r"\boxed{40} daps are equal to 70 yaps": "cannot tell: nothing says how {40} daps makes 70 yaps",
    "5 packs = 30 cans": "cannot tell: nothing says how 5 packs makes 30 cans",
    "We solve (x+1)^2 = x^2+9": "cannot tell: whether it holds depends on x; add a value such as x=2 to test",
    "Either x-4=12, so x=16, or x-4=-12, so x=-8": "correct: all 4 claims: x-4=12; x=16; x-4=-12; ...",
    "3p+e=124": "cannot tell: e may be a name here; write e ~= 2.718 for the constant",
}


@pytest.mark.parametrize("query", WORK)
def test_work_in_words(query: str) -> None:
    assert ask(VERIFY, query) == WORK[query]


def test_what_was_not_checked_is_said() -> None:
    reply = ask(VERIFY, "2+2=4, so x=7")
    assert leading_verdict(reply) == "cannot tell"
    assert "x=7 was not checked" in reply
    assert ask(VERIFY, "Let n=4. Then 2+2=4") == "correct: 2+2=4; not checked: n=4"
    # Wrong beats open, wherever it stands.
    assert ask(VERIFY, "2+2=5, so x=7") == "incorrect: 2+2 is 4"


@given(st.integers(2, 99), st.integers(2, 99), st.integers(-3, 3), st.sampled_from(["apples", "feet", "dollars", "$"]))
@settings(deadline=None, max_examples=100)
def test_units_change_no_product(a: int, b: int, slip: int, unit: str) -> None:
    left, right = (f"${a}", f"${a * b + slip}") if unit == "$" else (f"{a} {unit}", f"{a * b + slip} {unit}")
    verdict = leading_verdict(ask(VERIFY, f"In total that makes {left} x {b} = {right}."))
    assert verdict == ("incorrect" if slip else "correct")


@pytest.mark.parametrize("query", CORRECT)
def test_correct(query: str) -> None:
    assert ask(VERIFY, query).split(":")[0] == "correct"


@pytest.mark.parametrize("query", INCORRECT)
def test_incorrect_says_why(query: str) -> None:
    assert ask(VERIFY, query) == f"incorrect: {INCORRECT[query]}"


@pytest.mark.parametrize("query", CANNOT_TELL)
def test_cannot_tell_says_why(query: str) -> None:
    assert ask(VERIFY, query) == CANNOT_TELL[query]


def test_several_claims_are_counted() -> None:
    assert ask(VERIFY, "2x+3=7, x=2") == "correct: all 2 claims"
    assert ask(VERIFY, "1+1=2; 2+2=4; 3+3=6") == "correct: all 3 claims"
    assert ask(VERIFY, "1+1=3; 2+2=5; 3+3=6") == "incorrect: 1+1 is 2; 2+2 is 4"
    assert ask(VERIFY, "4+4+1=09;7+7+2=16;3+3+8=15") == "incorrect: 3+3+8 is 14"


def test_caret_is_a_power_except_in_the_rulebook() -> None:
    assert ask(VERIFY, "12^13=1").startswith("incorrect")
    rulebook = "cannot tell: operator ^ is not arithmetic; ask knowledge"
    assert ask(VERIFY, "12^13=1", task_id="rulebook/l4/train/0/7") == rulebook
    assert ask(VERIFY, "12^13=1", transcript="The operators of the rulebook work on ...") == rulebook


@pytest.mark.parametrize(
    ("query", "verdict"),
    [
        (r"\sin 2x = 2\sin x\cos x", "correct"),
        (r"\sin 30^\circ = \frac12", "correct"),
        (r"\sqrt[3]{16}=2\sqrt[3]{2}", "correct"),
        (r"\sin 2x = 2\sin x", "incorrect: not true for all x"),
        (r"\sin 30^\circ = \frac13", "incorrect: "),
    ],
)
def test_beyond_polynomials(query: str, verdict: str) -> None:
    assert ask(VERIFY, query).startswith(verdict)


def test_a_deadline_that_has_passed_is_no_verdict() -> None:
    request = ConsultRequest(r"\cos 2x = 2\cos^2 x - 1 + \sin 0 x", deadline=0.0)
    assert asyncio.run(VERIFY.respond(request)).text.startswith(("cannot tell: there was no time", "correct"))
    request = ConsultRequest(r"\sin 3x = 3\sin x - 4\sin^3 x", deadline=0.0)
    assert asyncio.run(VERIFY.respond(request)).text == "cannot tell: there was no time left to check it"


@given(st.integers(-999, 999), st.integers(-999, 999), st.integers(-3, 3), st.sampled_from("+-*"))
@settings(deadline=None, max_examples=150)
def test_sums_and_products_against_python(a: int, b: int, slip: int, sign: str) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    text = ask(VERIFY, f"({a}){sign}({b})={value + slip}")
    assert text == ("correct" if slip == 0 else f"incorrect: ({a}){sign}({b}) is {value}")


@given(st.fractions(max_denominator=50), st.fractions(max_denominator=50), st.integers(0, 1))
@settings(deadline=None, max_examples=100)
def test_fractions_in_latex(a: Fraction, b: Fraction, slip: int) -> None:
    total = a + b + slip

    def latex(value: Fraction) -> str:
        return rf"\left(\frac{{{value.numerator}}}{{{value.denominator}}}\right)"

    verdict = ask(VERIFY, f"{latex(a)}+{latex(b)}={latex(total)}").split(":")[0]
    assert verdict == ("incorrect" if slip else "correct")


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=3), st.integers(0, 1))
@settings(deadline=None, max_examples=60)
def test_expanded_products(roots: list[int], slip: int) -> None:
    coefficients = [1]
    for root in roots:  # multiply by (x - root)
        shifted, scaled = [*coefficients, 0], [0, *(-root * c for c in coefficients)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    coefficients[-1] += slip
    degree = len(roots)
    expanded = "+".join(f"({c})*x^{degree - i}" for i, c in enumerate(coefficients))
    product = "".join(f"(x-({root}))" for root in roots)
    assert ask(VERIFY, f"{product}={expanded}").split(":")[0] == ("incorrect" if slip else "correct")


def test_every_expansion_of_the_rulebook_can_be_checked() -> None:
    tasks = RulebookTasks(level=2)
    for index in range(30):
        expansion = expand(str(tasks.task(index).metadata["expression"]))
        assert expansion is not None
        digits = evaluate_expansion(expansion)
        assert ask(VERIFY, f"{expansion}={digits}") == "correct"
        wrong = digits[:-1] + str((int(digits[-1]) + 1) % 10)
        last = expansion.split(";")[-1]
        assert ask(VERIFY, f"{expansion}={wrong}") == f"incorrect: {last} is {digits[-2:]}"
        assert ask(VERIFY, f"{last}={digits[-2:]}") == "correct"


def test_replies_are_bounded() -> None:
    agent = VerifyAgent(max_chars=40)
    assert len(ask(agent, "+".join(["123456789"] * 40) + "=1")) <= 40


def test_concurrent_calls_do_not_mix() -> None:
    queries = {f"{n}+{n}={2 * n + n % 2}": n % 2 == 0 for n in range(100, 200)}

    async def all_at_once() -> list[str]:
        requests = [ConsultRequest(query, seed=i) for i, query in enumerate(queries)]
        requests += [ConsultRequest(rf"\sin {k}x = 2\sin {k}x - \sin {k}x") for k in (2, 3, 4)]
        return [reply.text for reply in await asyncio.gather(*map(VERIFY.respond, requests))]

    texts = asyncio.run(all_at_once())
    assert texts[100:] == ["correct"] * 3
    for text, (query, right) in zip(texts, queries.items(), strict=False):
        left = query.split("=")[0]
        assert text == ("correct" if right else f"incorrect: {left} is {2 * int(left.split('+')[0])}")


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": True}, {"timeout": float("inf")}, {"max_chars": 3}, {"name": ""}]
)
def test_options_are_validated(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="VerifyAgent: "):
        VerifyAgent(**options)  # type: ignore[arg-type]


def test_it_is_an_agent() -> None:
    assert isinstance(VERIFY, Agent)
    assert VERIFY.name == "verify"
    assert VerifyAgent(name="judge").name == "judge"
