"""How actions and replies look in text."""
