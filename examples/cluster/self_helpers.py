"""The policy as its own helper: the weights that a run starts from, under the prompts of the roles, in this process.

    aipo train --policy runs/start --agents verify=self_helpers:verify reasoning=self_helpers:reasoning ...

AIPO_HELPER_MODEL is what `--policy` is; AIPO_HELPER_DEVICE where the copy goes. On a cluster, serve those weights and use
served_helpers.py.
"""

from __future__ import annotations

import functools
import os

from aipo_agents import LLMAgent
from aipo_agents.backends import TransformersModel
from aipo_env import Agent
from aipo_env.dialects.base import TokenCodec
from aipo_env.errors import ConfigurationError
from algorithms.policies import load_policy


def verify() -> Agent:
    """Judges a step."""
    return _helper("verify")


def knowledge() -> Agent:
    """States a fact or a rule."""
    return _helper("knowledge")


def reasoning() -> Agent:
    """Proposes the next step."""
    return _helper("reasoning")


@functools.cache
def _model() -> tuple[TransformersModel, TokenCodec]:
    if not (name := os.environ.get("AIPO_HELPER_MODEL")):
        raise ConfigurationError("set AIPO_HELPER_MODEL to the policy that helps, as --policy takes it.")
    policy = load_policy(name, os.environ.get("AIPO_HELPER_DEVICE", "cpu"))
    return TransformersModel(policy.model, policy.tokenizer, name=policy.name), policy.codec


def _helper(role: str) -> Agent:
    model, codec = _model()
    # Sampled from the whole distribution, with the policy's own tokenizer: mu is known.
    return LLMAgent(role, model, temperature=1.0, max_tokens=120, codec=codec)
