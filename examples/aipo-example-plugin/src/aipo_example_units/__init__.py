"""Unit conversions as an AIPO environment, and a helper that knows the factors."""
