"""The helper: knows what every unit is worth."""

from __future__ import annotations

import re

from aipo_env import ConsultRequest, Reply
from aipo_example_units.factors import KINDS, convert

_QUERY = re.compile(r"(?:how many )?(?:([a-z]+) are )?([0-9]{1,9}) ([a-z]+)(?: in ([a-z]+))?\??", re.IGNORECASE)


class ConverterAgent:
    """Answers `3 furlong in yard` and `How many yard are 3 furlong?`; states the factors of a single unit."""

    name = "converter"
    description = "converts units of length, mass and volume, for example: 3 furlong in yard"

    async def respond(self, request: ConsultRequest) -> Reply:
        """Converts, or says what it can be asked."""
        text = " ".join(request.query.lower().split())[:200]
        match = _QUERY.fullmatch(text)
        if match is not None:
            asked, amount, unit, named = match.groups()
            target = asked or named or ""
            value = convert(int(amount), unit, target)
            if value is not None:
                return Reply(f"{amount} {unit} = {value} {target}")
        for worth in KINDS.values():
            if text in worth:
                smaller = [u for u in worth if worth[u] < worth[text] and worth[text] % worth[u] == 0]
                return Reply("; ".join(f"1 {text} = {worth[text] // worth[u]} {u}" for u in smaller) or f"1 {text}")
        return Reply("I convert units, for example: 3 furlong in yard. I do not understand this question.")
