"""Find the answer in a text: the last box or answer tag, else a marked phrase, else the last formula.

Everything here is linear in the length of the text, whatever the text is. Only text that the policy wrote
may be passed in; this module cannot know who wrote it.
"""

from __future__ import annotations

import itertools
import re

from aipo_env.grading.units import UNIT_WORDS
from aipo_env.grading.vocabulary import NUMBER_WORDS, SCALES, TABLES, introduces

MAX_TEXT = 400_000
"""Only this many characters at the end of a text are searched."""
MAX_ANSWER = 2_000
"""Longer answers are refused by the grader (``guard.length``); marked phrases are cut to this length."""

# Two backslashes before the command come from a text that was escaped twice.
_BRACES = re.compile(r"\\{1,2}(?:boxed|fbox)\s{0,8}\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s{0,8}([0-9A-Za-z]{1,40})")
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_PHRASE = re.compile(
    r"(?:\b(?:final\s{1,4})?answer(?:\s{1,4}is)?\s{0,4}[*_]{0,3}\s{0,4}(?::|(?<=is)\s)[*_]{0,3}|####)",
    re.IGNORECASE,
)
_CONNECTOR = re.compile(
    r"(?:\s|\$|,|;|&|~|\.(?!\d)|\\[()\[\],;:! ]|\\q?quad|\\(?:text|mbox|textrm|mathrm)\{\s*(?:and|or)?[\s,]*\}|\band\b|\bor\b"
    r"|[A-Za-z](?:_\{?\w{1,4}\}?)?\s{0,4}=)*\s*"
)
_NUMBER = re.compile(
    r"(?<![\w.,])[-+−]?(?:\\?\$\s?)?(?:\d{1,3}(?:(?:,|\{,\}|,\\!)\s?\d{3}){1,8}(?!\d)|\d{1,400})(?:\.\d{1,400})?"
    r"(?:/\d{1,40})?(?:\s?(?:\\?%|percent\b))?"
)
_COUNTED = re.compile(r"([-+−]?(?:\\?\$\s?)?[\d,]{1,400}(?:\.\d{1,400})?)((?:\s+[A-Za-z]{1,30}){1,40})")
# A mark of exclamation behind a value is a factorial; what is asked is not said.
_SENTENCE_END = re.compile(r"[.](?=\s|$)|(?<![\d)}\]$\s])!(?=\s|$)|<\|")
_SENTENCE_START = re.compile(r"[.!?](?=\s)|<\|")
_STARTS_LIKE_MATH = re.compile(r"[-+−]?[\d(\[{\\$.|√π]")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s{0,4}\{|[}*_]")
# What may stand right before a value that a sentence states: one of these words, a mark, or nothing.
_BEFORE = re.compile(
    r"(?:^|([=≈]|[=-]>|(?<![\d#])(?<![\d#]\s):|[A-Za-z:]\s\()|(?<!\d)(?:,|;)|([A-Za-z]+)\s*[:,]?)[\s$]*$"
)
_BEFORE_VALUE = frozenset[str](TABLES["before a stated value"])
_OPERATIONS = frozenset[str](TABLES["operations"])
_CHANGES = (_OPERATIONS | NUMBER_WORDS) - {"of", "by", "over", "and", "one"}
_CALCULATES = re.compile(
    r"\b(?:squared?|cubed?|roots?|power|divided|multiplied|inverse|reciprocal|factorial|negative"
    r"|sqrt|log|sin|cos|tan|third|quarter|fourth|fifth|tenth|percent)\b",
    re.IGNORECASE,
)
_AFTER_NUMBER = re.compile(r"^.*\d(?=\s)", re.DOTALL)
_LETTER = re.compile(r"\s*(?:[A-Za-z]|\\[a-z]+)\s*")
_IS_ANSWER = re.compile(r"[\s$]*is the (?:final |correct |only )?(?:answer|solution|result)\b")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}|[A-Za-z]{2,}\s+[A-Za-z]{2,}|^\W*[.:]|[$]|\w:\s")
_DEGREE = re.compile(r"(?:\s*\b(?:about|approximately|roughly|exactly|only|just))+\s*$", re.IGNORECASE)
_TOTAL_OF = re.compile(
    r"\b(?:an?|total)\s+(?:\w{1,20}\s+)?(?:total|average|sum|profit|cost|speed|price)\s+of[\s$]*$", re.IGNORECASE
)
_AFTER = frozenset[str](TABLES["after a stated value"])
_UNIT_TOO = frozenset((*SCALES, "per", "percent", "degrees", "square", "cubic"))
_DOUBT = re.compile(
    r"\b(?:not|no|neither|nor|never|cannot|false|wrong|incorrect|unless|except|excluded?|impossible|least|most|less|more|fewer|than"
    r"|or|half|twice|double|opposite|maybe|perhaps|possibly|if|nobody|deny|denies|suppose|assume|pretend|bad)\b|n['’]t\b",
    re.IGNORECASE,
)


def extract_answer(text: str, *, marked_only: bool = False) -> str | None:
    r"""Return the answer that a text gives, or None.

    The last of ``\boxed{...}`` and ``<answer>...</answer>`` wins; several boxes in a row, joined by nothing
    but commas, "and" or "or", are one list. Without either, the text after the last ``####``, ``Answer:``
    or "answer is" counts; without that (unless ``marked_only``), the last formula or number of the text.

    Args:
        text: what the policy wrote.
        marked_only: take no answer from a text that marks none.
    """
    text = text[-MAX_TEXT:]
    boxes = _boxes(text)
    tag = _last_answer_tag(text)
    if tag is not None and (not boxes or boxes[-1][1] <= tag[1]):
        content = text[tag[0] : tag[1]]
        inner = _boxes(content)
        return (_join_boxes(content, inner) if inner else content).strip()
    if boxes:
        return _join_boxes(text, boxes).strip()
    bare = last_match(_BARE_BOX, text)
    if bare is not None:
        return bare.group(1)
    phrase = last_match(_PHRASE, text)
    if phrase is not None and _innocent(_last_sentence(text[: phrase.start()])):
        value = _phrase_value(text[phrase.end() : phrase.end() + MAX_ANSWER])
        if value:
            return value
    if marked_only:
        return None
    line = text[-2 * MAX_ANSWER :].strip().rpartition("\n")[2].strip()
    if line and len(line) <= 400 and not line.endswith("$") and not _WORDS.search(line):
        return line  # a formula on a line of its own
    return _last_value(text[-2 * MAX_ANSWER :])


def last_match(pattern: re.Pattern[str], text: str, start: int = 0) -> re.Match[str] | None:
    """Return the last match of a pattern."""
    last = None
    for match in pattern.finditer(text, start):
        last = match
    return last


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """Return (start, end, start of content) of the outermost balanced boxes, the last 32 of them."""
    if "\\boxed" not in text and "\\fbox" not in text:
        return []
    found: list[tuple[int, int, int]] = []
    open_braces: list[tuple[int, int] | None] = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            if not open_braces:
                continue
            opened = open_braces.pop()
            if opened is not None:
                while found and found[-1][0] > opened[0]:
                    found.pop()
                found.append((opened[0], match.end(), opened[1]))
                del found[:-32]
        elif token == "{":
            open_braces.append(None)
        elif token.endswith("{") and len(token) > 2:
            open_braces.append((match.start(), match.end()))
    return found


def boxes_in_a_row(text: str) -> tuple[int, str] | None:
    """Return where several boxes at the end of a text begin, and what they say together; None without several."""
    boxes = _boxes(text)
    if not boxes or boxes[-1][1] < len(text):
        return None
    first = _first_of_run(text, boxes)
    return (boxes[first][0], _join_boxes(text, boxes)) if first < len(boxes) - 1 else None


def _first_of_run(text: str, boxes: list[tuple[int, int, int]]) -> int:
    first = len(boxes) - 1
    while first > 0:
        between = text[boxes[first - 1][1] : boxes[first][0]]
        if len(between) > 80 or _CONNECTOR.fullmatch(between) is None:
            break
        first -= 1
    return first


def _join_boxes(text: str, boxes: list[tuple[int, int, int]]) -> str:
    """Return the content of the last box, or of the last run of boxes joined by connectors, as a list."""
    first = _first_of_run(text, boxes)
    alternatives = any("or" in text[one[1] : other[0]] for one, other in itertools.pairwise(boxes[first:]))
    run = [text[content : end - 1] for _, end, content in boxes[first:]]
    if len(run) > 1 and all(part.strip() == run[-1].strip() for part in run):
        run = run[-1:]  # the same box twice is one answer said twice
    answer = (" or " if alternatives else ", ").join(run)
    inner = _boxes(answer)
    return _join_boxes(answer, inner) if len(run) == 1 and inner else answer


def _last_answer_tag(text: str) -> tuple[int, int] | None:
    """Return the span of the content of the last closed ``<answer>`` tag."""
    opened: int | None = None
    span: tuple[int, int] | None = None
    for match in _ANSWER_TAG.finditer(text):
        if not match.group(1):
            opened = match.end()
        elif opened is not None:
            span, opened = (opened, match.start()), None
    return span


def _phrase_value(phrase: str) -> str | None:
    """Return the value that a marked phrase such as "The area is $5$ square metres." gives.

    A phrase that is not read is returned whole, so that it is graded as what it is.
    """
    stripped = phrase.strip().lstrip("*_: ")
    line = stripped.split("\n", 1)[0] if not stripped.startswith(("\\[", "$$")) else stripped
    end = _SENTENCE_END.search(line)
    if end is not None and end.start() > 0:
        line = line[: end.start()]
    line = line.strip().strip("*").strip()
    before, is_, after = line.rpartition(" is ")
    if is_ and after and introduces(before + is_):
        line = after.strip()
    if not line:
        return None
    counted = _COUNTED.fullmatch(line)
    if counted is not None:
        return _with_unit(counted[1], counted[2].split()) or line
    if _STARTS_LIKE_MATH.match(line) or len(line.split()) <= 3:
        return line
    return _last_value(line) or line


def _with_unit(number: str, words: list[str]) -> str | None:
    """Keep the unit behind a number: "18 cents in all" gives "18 cents"; None where other words follow."""
    unit: list[str] = []
    for word in words:
        plain = word.casefold()
        if len(plain) == 1 and plain in "mgshlnjwvkcf" and not unit:
            unit.append(f"\\text{{{word}}}")
        elif (plain not in UNIT_WORDS and plain not in _UNIT_TOO) or plain == "in":
            rest = [other.casefold() for other in words[len(unit) :]]
            changes = _CHANGES - NUMBER_WORDS if plain == "for" else _CHANGES
            changed = _DOUBT.search(" ".join(rest)) or any({one, one.removesuffix("s")} & changes for one in rest)
            return " ".join([number, *unit]) if plain in _AFTER and not changed else None
        else:
            unit.append(word)
    return " ".join([number, *unit])


def _last_value(text: str, tries: int = 3) -> str | None:
    """Return the last formula or number of a text, whichever ends later, if the words beside it only state it."""
    best: tuple[int, int, str] | None = None
    for opening, closing in (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$")):
        end = text.rfind(closing)
        start = text.rfind(opening, 0, end) if end > 0 else -1
        if start < 0:
            continue
        content = text[start + len(opening) : end]
        after = end + len(closing)
        if opening == "$" and len(content.split()) > 6 and "\\" not in content:
            continue  # two sums of money, not a formula
        if content.strip() and "$" not in content and (best is None or after > best[1]):
            best = (start, after, content.strip())
    number = last_match(_NUMBER, text, best[1] if best else 0)
    if best is not None and number is None and _LETTER.fullmatch(best[2]) and "$" in text[: best[0]]:
        return _last_value(text[: best[0]].rstrip("$ "), tries - 1) if tries else None  # "... for all $x$"
    if number is not None:
        best = (number.start(), number.end(), number.group().strip())
    return _stated(text, *best, formula=number is None) if best else None


def _stated(text: str, start: int, end: int, value: str, *, formula: bool) -> str | None:
    """Return a value with its unit, or None if the sentence around it may say something else, as "half of 5" does."""
    before = _WRAPPER.sub(" ", _last_sentence(text[:start]))
    following = _SENTENCE_END.search(text, end)
    after = _WRAPPER.sub(" ", text[end : following.start() if following else None])
    if _DOUBT.search(before) or _DOUBT.search(after):
        return None
    if _CALCULATES.search(before) and not introduces(before):
        return None
    last = _BEFORE.search(_DEGREE.sub("", before))
    if last is None and not formula:
        return None
    word = (last[2] or "").casefold() if last else ""
    if word == "of" and _TOTAL_OF.search(before):
        word = ""
    if word and (word in _OPERATIONS if formula else word not in _BEFORE_VALUE):
        return None
    if _IS_ANSWER.match(after):
        return value
    percent = re.match(r"\s?(?:\\?%|percent\b)", after)
    if percent:
        return value + "\\%"
    words = re.match(r"[*$\s]*([A-Za-z]+)", after)
    if formula:
        return None if words and {words[1].casefold(), words[1].casefold().removesuffix("s")} & _OPERATIONS else value
    if words is None:
        return value if re.match(r"[*$€£\s]*(?:$|[.,;:)\u00b0'\"]|\\[)\],;:\s\\])", after) else None
    return _with_unit(value, re.findall("[A-Za-z]+", after))


def _innocent(before: str) -> bool:
    """Whether words before "the answer is" leave it that: "half of the answer is" does not."""
    words = re.findall("[A-Za-z]+", before.casefold())
    return not _DOUBT.search(before) and not _OPERATIONS.intersection(words) - {"and", "by", "over"}


def _last_sentence(text: str) -> str:
    """Return what stands before a value: from the last full stop, line or number on."""
    ends = [match.end() for match in _SENTENCE_START.finditer(text, max(0, len(text) - 400))]
    return _AFTER_NUMBER.sub("#", text[max([ends[-1] if ends else 0, text.rfind("\n") + 1, len(text) - 400]) :])
