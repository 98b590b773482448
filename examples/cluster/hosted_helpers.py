"""Helpers behind a hosted API: a reasoning model, with a limit of cost, a cache of replies and a limit of requests.

    --aipo.agents reasoning=hosted_helpers:reasoning --aipo.env_options leak_filter 1

AIPO_HELPER_URL and AIPO_HELPER_MODEL name it, OPENAI_API_KEY is its key; AIPO_HELPER_USD is what a process may spend.
"""

from __future__ import annotations

import os

from aipo_agents import LLMAgent
from aipo_agents.middleware import Ledger, Prices, resilient
from aipo_env import Agent
from aipo_env.errors import ConfigurationError

PRICES = Prices(prompt=1.25, completion=10.0)
"""US dollars for a million tokens: those of your model."""
LEDGER = Ledger()
"""What all roles have cost so far in this process; `print(LEDGER)` shows it."""


def verify() -> Agent:
    """Judges a step."""
    return _helper("verify")


def knowledge() -> Agent:
    """States a fact or a rule."""
    return _helper("knowledge")


def reasoning() -> Agent:
    """Proposes the next step."""
    return _helper("reasoning")


def _helper(role: str) -> Agent:
    url, model = os.environ.get("AIPO_HELPER_URL"), os.environ.get("AIPO_HELPER_MODEL")
    if not url or not model:
        raise ConfigurationError("set AIPO_HELPER_URL, the service's address, and AIPO_HELPER_MODEL, its model's name.")
    agent = LLMAgent.from_server(
        role,
        url,
        model,
        temperature=1.0,  # reasoning models take no other
        max_tokens=4000,  # thoughts included
        max_tokens_field="max_completion_tokens",
        timeout=120.0,
    )
    return resilient(
        agent,
        folder=os.environ.get("AIPO_HELPER_CACHE", "runs/replies"),
        timeout=120.0,
        requests_per_minute=500,
        completion_tokens=4000,
        prices=PRICES,
        ledger=LEDGER,
        max_cost_usd=float(os.environ.get("AIPO_HELPER_USD", "20")),
    )
