"""The metric `math_answer`, in a folder of its own as `evaluate` wants it."""
