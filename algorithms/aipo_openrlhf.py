"""Trains on a cluster: OpenRLHF's PPO driver with episodes in which the policy may ask for help.

    python algorithms/aipo_openrlhf.py --aipo.env math-consult --actor.model_name_or_path ... <any OpenRLHF flag>

`--aipo.*` flags are ours (`--help` lists them), all others OpenRLHF's. `docs/cluster.md` has recipes.
"""

from __future__ import annotations

import sys
from pathlib import Path


def run() -> int:
    """Runs with the command line's arguments; returns the exit code, 2 for a user's mistake."""
    # Python puts this file's folder first; its modules are no top-level ones, and some have names that others use.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent.resolve()]
    from aipo_env.errors import AipoError
    from algorithms.cluster.launch import main

    try:
        main(sys.argv[1:])
    except AipoError as error:
        print(f"aipo_openrlhf: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run())
