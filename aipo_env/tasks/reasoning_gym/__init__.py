"""`rg/<name>`: the procedural tasks of the package reasoning-gym, as the extra `rg` brings them.

Its generators and scorers run in one process of their own (`process.py`, `worker.py`): with a fixed hash seed, because
some generators order sets; apart from the caller's global random state, which some of them use; and killable, because
some scorers loop as long as an answer says. Where a scorer would evaluate an answer as a program, or pays in full for
a wrong one, a rule of our own decides (`rules.py`, `expressions.py`). The family is `tasks.ReasoningGymTasks`.
"""
