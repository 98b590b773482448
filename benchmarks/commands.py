"""The `aipo` subcommands of the benchmarks. Importing this module needs no torch, so that `aipo --help` is quick."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

from aipo_env.console import command, interrupted, print_json
from aipo_env.errors import AipoError
from aipo_env.parsing import FLAT, ConfigFile
from benchmarks.evaluation.config import EvaluationConfig


@command(
    "aipo eval --suite rulebook --num-tasks 50 --samples 4",
    "aipo eval --suite math500,aime24 --policy Qwen/Qwen2.5-1.5B-Instruct --backend vllm --out runs/eval",
    "aipo eval --config eval.toml --mode solo",
)
def eval_policy(
    *,
    config: Annotated[EvaluationConfig, FLAT],
    quiet: bool = False,
    json: bool = False,
    config_file: ConfigFile = None,
) -> int:
    """Evaluate a policy on benchmarks, alone and with help; the same command goes on where it was cut.

    Exits with 0 when all is done, 1 when episodes are missing (a dead server, a full disk), 2 for a user's error, 130 for
    Ctrl-C.

    Args:
        config: of the evaluation.
        quiet: no bar, no words but errors.
        json: what results.json holds, in place of the words.
        config_file: is among the options already (`aipo_env.parsing`).
    """
    from algorithms.progress import quiet_libraries
    from benchmarks.evaluation.runner import evaluate_policy
    from benchmarks.evaluation.summary import summary_lines

    quiet_libraries()
    again = f"The same command goes on from there; what is finished is in {config.out}."
    try:
        evaluation = evaluate_policy(config, progress=not quiet)
    except AipoError:
        raise
    except KeyboardInterrupt:
        return interrupted(again)
    except OSError as error:
        room = "Make room on the disk. " if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
        print(f"aipo: {error}. {room}{again}", file=sys.stderr)
        return 1
    if json:
        print_json(evaluation.results)
    elif not quiet:
        print("\n".join(summary_lines(evaluation.results)))
        print(f"results.json, results.md, figures and traces are in {config.out}")
    if evaluation.complete:
        return 0
    if evaluation.fault:
        print(f"aipo: {evaluation.fault}", file=sys.stderr)
    print(f"aipo: the evaluation is not complete. {again}", file=sys.stderr)
    return 1


@command("aipo compare runs/eval-before runs/eval-after")
def compare(first: Path, second: Path, /, *, out: Path | None = None) -> int:
    """Compare two evaluations on the tasks that they have in common, paired by task.

    Args:
        first: a results.json, or its folder.
        second: the other one.
        out: where to write the comparison; standard output alone if left out.
    """
    from benchmarks.evaluation.compare import compare_files

    return compare_files(first, second, out)
