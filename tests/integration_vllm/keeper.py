"""Runs a command in a process group of its own, and kills the whole group when whoever started this is gone.

Usage: keeper.py COMMAND ARGUMENT...; the starter keeps the other end of standard input open. A test run that is killed
leaves no server behind: the end of its pipe is closed by the kernel. It is started with `start_new_session=True`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def watch() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    child.wait()
    # What the command itself left behind goes with it, and so does this.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
