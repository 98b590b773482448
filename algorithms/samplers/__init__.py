"""Policies that sample turns: from a model server or an engine."""

from algorithms.samplers.backend_policy import BackendPolicy

__all__ = ["BackendPolicy"]
