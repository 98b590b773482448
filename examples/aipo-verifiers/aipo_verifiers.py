"""What verifiers finds under the id "aipo-verifiers"; the adapter is `algorithms.adapters.verifiers`."""

from algorithms.adapters.verifiers import AipoEnv, AipoHarness, AipoTaskset

__all__ = ["AipoEnv", "AipoHarness", "AipoTaskset"]
