"""Policies: a causal language model with its tokenizer, by name or by path."""

from algorithms.policies.loading import POLICIES, Policy, load_policy

__all__ = ["POLICIES", "Policy", "load_policy"]
