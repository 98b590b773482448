"""The metric `pass_at_k`, in a folder of its own as `evaluate` wants it."""
