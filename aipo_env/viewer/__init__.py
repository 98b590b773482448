"""The trace viewer: finished and running episodes as conversations, in one HTML page or served on this machine.

`aipo view` is its command (`algorithms/view_command.py`). Nothing here needs torch; what only the learner can compute comes
in as a `Learner`.
"""

from aipo_env.viewer.page import build_page
from aipo_env.viewer.run_files import RunFile, find_run_files
from aipo_env.viewer.server import make_server
from aipo_env.viewer.signals import Coefficients, Learner, RunInfo, Sample, TokenReader
from aipo_env.viewer.store import TraceStore

__all__ = [
    "Coefficients",
    "Learner",
    "RunFile",
    "RunInfo",
    "Sample",
    "TokenReader",
    "TraceStore",
    "build_page",
    "find_run_files",
    "make_server",
]
