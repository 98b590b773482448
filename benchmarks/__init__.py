"""Measurements: speed side by side with peers."""
