"""Helpers on GPUs of their own: three roles of one model behind a vLLM server.

    --aipo.agents verify=served_helpers:verify knowledge=served_helpers:knowledge reasoning=served_helpers:reasoning

This folder has to be on the PYTHONPATH of every node, and the two variables below in the environment of every process.

Replies are sampled from the model's whole distribution, and with `codec`, its own tokenizer, they carry the log-probabilities
mu under which they were. A policy with the same tokenizer (models of one family) learns from exactly these tokens with this mu;
`aipo helpers try --policy ...` tells.
"""

from __future__ import annotations

import functools
import os

from aipo_agents import LLMAgent
from aipo_agents.middleware import resilient
from aipo_env import Agent
from aipo_env.dialects.base import TokenCodec
from aipo_env.errors import ConfigurationError
from algorithms.rollout_command import load_codec


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
        raise ConfigurationError(
            "set AIPO_HELPER_URL, such as http://localhost:8100/v1, and AIPO_HELPER_MODEL, its model's name."
        )
    return resilient(LLMAgent.from_server(role, url, model, temperature=1.0, max_tokens=120, codec=_codec(model)))


@functools.cache
def _codec(model: str) -> TokenCodec:
    return load_codec(model)
