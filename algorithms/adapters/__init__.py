"""Other trainers on our environments, with our objective: a module each, imported where its trainer is installed."""
