"""The trace viewer: finished and running episodes as conversations, in one HTML page or served on this machine.

`aipo view` is its command (`algorithms/view_command.py`). Nothing here needs torch but what the learner says of the
tokens (`algorithms/token_weights.py`).
"""

from algorithms.apps.viewer.page import build_page
from algorithms.apps.viewer.run_files import RunFile, RunInfo, TokenReader, find_run_files
from algorithms.apps.viewer.server import make_server
from algorithms.apps.viewer.store import TraceStore

__all__ = ["RunFile", "RunInfo", "TokenReader", "TraceStore", "build_page", "find_run_files", "make_server"]
