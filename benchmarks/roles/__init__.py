"""What helpers that are trained are worth, and what a reply is worth: embedded policies on `rulebook`."""
