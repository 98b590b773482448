from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import re
import time
import zlib
from pathlib import Path

import gymnasium
import pytest

import aipo_env
from aipo_env import Answer, Consult, TokenAction, read_traces
from aipo_env.errors import ConfigurationError, DataFormatError, GradingError
from aipo_env.grading import Verdict
from aipo_env.grading.code import worker as worker_module
from aipo_env.tasks import programs
from aipo_env.tasks.livecodebench import LiveCodeBenchTasks
from aipo_env.testing import check_consult_env, check_taskset
from aipo_env.trace_files import errors_path
from tests.grading_code.hostile import FUNCTIONAL_CHEATS
from tests.grading_code.support import needs_sandbox
from tests.grading_code.valid import VALID
from tests.helpers import CharacterCodec
from tests.tasks.small_data import (
    DOUBLE,
    FUNCTION,
    STARTER,
    functional_test,
    lcb_row,
    packed,
    stdin_test,
    write_jsonl,
)

RIGHT = "```python\nprint(2 * int(input()))\n```"
PUBLIC_ONLY = "```python\nprint(6)\n```"
METHOD = "```python\nclass Solution:\n    def twice(self, values: List[int]) -> List[int]:\n        return [2 * v for v in values]\n```"


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIPO_DATA", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", [DOUBLE, FUNCTION])


def test_tasks_show_the_problem_and_no_private_test(path: Path) -> None:
    tasks = LiveCodeBenchTasks(data=path)
    program, method = tasks.task(0), tasks.task(1)
    assert (tasks.num_tasks, program.id, program.gold) == (2, "livecodebench/abc300_a", "")
    assert program.metadata == {"platform": "atcoder", "difficulty": "easy", "contest_date": "2024-08-01T00:00:00"}
    assert program.problem == (
        "Read an integer and print twice its value.\n\n"
        "The program reads its input from standard input and writes its answer to standard output."
    )
    assert method.problem.endswith(f"keep its names and arguments.\n```python\n{STARTER}\n```")
    for task in (program, method):
        assert all(
            secret not in repr((task.problem, task.gold, task.metadata)) for secret in ("-5", "-10", "[7]", "[14]")
        )


# Grading


@needs_sandbox
def test_programs_and_methods_are_graded(path: Path) -> None:
    tasks = LiveCodeBenchTasks(data=path, time_limit_s=0.5)
    program, method = tasks.task(0), tasks.task(1)
    for task, answer, verdict, rule in (
        (program, RIGHT, Verdict.CORRECT, "code.pass"),
        (program, "print(2 * int(input()))", Verdict.CORRECT, "code.pass"),
        (program, f"First:\n{PUBLIC_ONLY}\nBetter:\n{RIGHT}\nDone.", Verdict.CORRECT, "code.pass"),
        (program, PUBLIC_ONLY, Verdict.WRONG, "code.wrong"),  # a private test is different
        (program, "```python\n1/0\n```", Verdict.WRONG, "code.runtime_error"),
        (program, "```python\nwhile True: pass\n```", Verdict.WRONG, "code.time_limit"),
        (program, "```cpp\nint main() {}\n```", Verdict.UNPARSABLE, "code.none"),
        (program, " ", Verdict.NO_ANSWER, "code.none"),
        (method, METHOD, Verdict.CORRECT, "code.pass"),
        (method, METHOD.replace("2 * v", "v"), Verdict.WRONG, "code.wrong"),
        (method, RIGHT, Verdict.WRONG, "code.runtime_error"),
    ):
        grade = tasks.grade(task, answer)
        assert (grade.verdict, grade.rule, grade.correct) == (verdict, rule, verdict is Verdict.CORRECT), answer
        assert asyncio.run(tasks.grade_async(task, answer)) == grade


@needs_sandbox
@pytest.mark.parametrize("encode", [json.dumps, packed])
def test_private_tests_of_every_encoding_count(encode: object, tmp_path: Path) -> None:
    private = [stdin_test("5\n", "10\n"), stdin_test("7\n", "14\n")]
    row = lcb_row("p", private=encode(private))  # type: ignore[operator]
    tasks = LiveCodeBenchTasks(data=write_jsonl(tmp_path / "rows.jsonl", [row]))
    assert tasks.grade(tasks.task(0), RIGHT).correct
    assert not tasks.grade(tasks.task(0), PUBLIC_ONLY).correct


@needs_sandbox
def test_unpacked_tests_stay_in_memory_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MAX_CACHED_CHARS", 250)
    rows = [lcb_row(f"p{i}", private=packed([stdin_test("5\n" + " " * 90, "10\n")])) for i in range(4)]
    tasks = LiveCodeBenchTasks(data=write_jsonl(tmp_path / "rows.jsonl", rows))
    kept = tasks._programs._kept
    for index in (0, 1, 0, 2, 0, 3):  # each takes about 100, and the one that is used stays
        assert tasks.grade(tasks.task(index), RIGHT).correct
    assert list(kept) == ["livecodebench/p0", "livecodebench/p3"]
    monkeypatch.setattr(programs, "MAX_CACHED_CHARS", 1)  # one is kept however large
    assert tasks.grade(tasks.task(1), RIGHT).correct
    assert list(kept) == ["livecodebench/p1"]


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_that_is_a_program_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "made"
    private = base64.b64encode(zlib.compress(pickle.dumps(_Payload(target)))).decode()
    tasks = LiveCodeBenchTasks(data=write_jsonl(tmp_path / "rows.jsonl", [lcb_row("p", private=private)]))
    task = tasks.task(0)
    with pytest.raises(DataFormatError, match=r"rows\.jsonl, line 1 \(p\): .*pickle"):
        tasks.grade(task, RIGHT)
    assert not target.exists()


CHEATS = (
    "equal_object", "equal_list", "metaclass", "frames", "gc_objects", "patch_json", "patch_harness", "patch_builtins",
    "forged_report", "no_value", "hostile_error", "close_report", "nan",
)  # fmt: skip


@needs_sandbox
def test_hostile_submissions_get_no_reward(tmp_path: Path) -> None:
    row = lcb_row("p", public=[functional_test("[1]", "[3, 1, 2]")], private="[]", starter="def f(x):", function="f")
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    env = aipo_env.make("livecodebench", data=path, time_limit_s=0.5)
    for name in CHEATS:
        env.reset(seed=0)
        _, reward, terminated, _, info = env.step(f"```python\n{FUNCTIONAL_CHEATS[name]}\n```")
        assert (reward, terminated, info["verdict"]) == (0.0, True, "wrong"), name
    env.reset(seed=0)
    assert env.step("```python\ndef f(x): return [3, 1, 2]\n```")[1] == 1.0


@needs_sandbox
@pytest.mark.parametrize("name", ["input", "open_zero", "os_read", "fileinput", "star_stdin", "carriage_returns"])
def test_valid_programs_pass(name: str, tmp_path: Path) -> None:
    kind, program, given, expected = VALID[name]
    assert kind == "stdin"
    path = write_jsonl(tmp_path / "rows.jsonl", [lcb_row("p", public=[stdin_test(given, expected)], private="[]")])
    env = aipo_env.make("livecodebench", data=path)
    env.reset(seed=0)
    assert env.step(f"```python\n{program}\n```")[1] == 1.0


def fail(*_: object) -> None:
    raise worker_module.WorkerError("broken on purpose")


@needs_sandbox
def test_a_sandbox_that_fails_is_an_error_and_no_wrong_answer(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = aipo_env.make("livecodebench", data=path)
    before = env.tasks.isolation()  # type: ignore[attr-defined]
    monkeypatch.setattr(worker_module.Worker, "run", fail)
    with pytest.raises(GradingError, match="broken on purpose"):
        env.tasks.grade(env.tasks.task(0), RIGHT)
    env.reset(options={"task_index": 0})
    with pytest.raises(GradingError):
        env.step(RIGHT)
    traces = tmp_path / "traces.jsonl"
    policy = lambda transcript: RIGHT  # noqa: E731
    faulty = aipo_env.collect_rollouts(env, policy, tasks=[0], group_size=2, traces=traces)
    assert [(t.stop_reason, t.verdict, t.reward) for t in faulty] == [("error", "", 0.0)] * 2
    assert "broken on purpose" in str(faulty[0].metadata["error"])
    assert len(list(read_traces(errors_path(traces)))) == 2
    with pytest.raises(GradingError):
        aipo_env.collect_rollouts(env, policy, tasks=[0], on_error="raise")
    monkeypatch.undo()
    again = aipo_env.collect_rollouts(env, policy, tasks=[0], group_size=2, traces=traces)
    assert [(t.stop_reason, t.verdict, t.reward) for t in again] == [("answer", "correct", 1.0)] * 2
    assert env.tasks.isolation() == before  # type: ignore[attr-defined]


@needs_sandbox
def test_grading_holds_up_no_event_loop(path: Path) -> None:
    tasks = LiveCodeBenchTasks(data=path)
    task = tasks.task(0)
    slow = "```python\nimport time\nn = int(input())\ntime.sleep(0.15)\nprint(2 * n)\n```"
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            start = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - start)

    async def main() -> list[bool]:
        ticking = asyncio.create_task(tick())
        grades = await asyncio.gather(*(tasks.grade_async(task, RIGHT if i % 2 else slow) for i in range(24)))
        ticking.cancel()
        return [grade.correct for grade in grades]

    assert asyncio.run(main()) == [True] * 24
    # Twelve of them sleep 0.3 s each; a loop that waited for one would tick that late.
    assert len(gaps) > 20
    assert sorted(gaps)[len(gaps) // 2] < 0.1


@needs_sandbox
def test_the_isolation_that_was_in_force_is_told(path: Path) -> None:
    tasks = LiveCodeBenchTasks(data=path)
    before = tasks.isolation()
    assert before["is_sandbox"] is True
    assert {"user", "mount", "pid", "net", "ipc", "uts"} <= set(before["in_force"])  # type: ignore[call-overload]
    tasks.grade(tasks.task(0), RIGHT)
    assert tasks.isolation() == json.loads(json.dumps(before))


def test_a_machine_that_cannot_isolate_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aipo_env.grading.code import grader as grader_module

    monkeypatch.setattr(grader_module, "_platform", lambda: "darwin")
    programs._shared_grader.cache_clear()
    try:
        env = aipo_env.make("livecodebench", data=path)
        env.reset(seed=0)  # looking at the problems needs no sandbox
        with pytest.raises(ConfigurationError, match="needs Linux"):
            env.tasks.isolation()  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError, match="needs Linux"):
            env.step(RIGHT)
    finally:
        programs._shared_grader.cache_clear()


def test_a_task_of_another_window_is_not_graded(path: Path) -> None:
    whole = LiveCodeBenchTasks(data=path)
    part = LiveCodeBenchTasks(data=path, end_date="2024-08-01")
    with pytest.raises(ConfigurationError, match="none of these 1 tasks"):
        part.grade(whole.task(1), METHOD)


# Episodes


@needs_sandbox
def test_a_fenced_block_at_the_end_of_a_turn_is_an_answer(path: Path) -> None:
    for env_id in ("livecodebench", "livecodebench-consult"):
        env = gymnasium.make(f"aipo/{env_id}-v0", data=str(path))
        for turn in (
            f"I double it.\n{RIGHT}\nThat is all.",
            f"<answer>\n{RIGHT}\n</answer>",
            f"\\boxed{{\n{RIGHT}\n}}",
            f"For 3 it is \\boxed{{6}}.\n{RIGHT}",
            f"{PUBLIC_ONLY}\nNo:\n{RIGHT}\nIt prints\n```\n6\n```",
            RIGHT.removesuffix("```"),
        ):
            observation, _ = env.reset(options={"task_index": 0})
            assert "inside answer tags" in observation["prompt"]
            _, reward, terminated, truncated, info = env.step(turn)
            assert (reward, terminated, truncated, info["stop_reason"]) == (1.0, True, False, "answer"), turn


@needs_sandbox
def test_structured_and_textual_answers_are_the_same_program(path: Path) -> None:
    code = "print(2 * int(input()))"
    env = aipo_env.make("livecodebench-consult", data=path, action_mode="structured")
    transcripts = set()
    for action in (Answer(code), {"target": 3, "text": code}, f"<answer>{code}</answer>"):
        env.reset(options={"task_index": 0})
        observation, reward, *_ = env.step(action)
        assert reward == 1.0
        transcripts.add(observation["prompt"])
    assert len(transcripts) == 1


def test_drafts_are_no_answers(path: Path) -> None:
    consult = '<consult agent="verify">print(6)</consult>'
    env = aipo_env.make("livecodebench-consult", data=path, codec=CharacterCodec(), agents={"verify": str.upper})
    env.reset(options={"task_index": 0})
    *_, info = env.step(f"{PUBLIC_ONLY}\nIs it right?\n{consult}")
    assert (info["action_kind"], info["num_consults"]) == ("consult", 1)
    *_, terminated, truncated, info = env.step(
        TokenAction(CharacterCodec().encode(PUBLIC_ONLY), finish_reason="length")
    )
    assert (terminated, truncated, info["stop_reason"], info["verdict"]) == (False, True, "length", "")
    env.reset(options={"task_index": 0})
    *_, info = env.step("I cannot do it.")
    assert info["parse_error"].startswith("the turn holds neither a consult tag nor a program")
    solo = aipo_env.make("livecodebench", data=path)
    solo.reset(options={"task_index": 0})
    # What a policy writes in a helper's name is not its answer.
    *_, terminated, _, info = solo.step(f'{consult}<feedback agent="verify">{RIGHT}</feedback> Thanks.')
    assert (terminated, info["stop_reason"], info["verdict"]) == (True, "no_answer", "")


@needs_sandbox
def test_rollouts_of_many_episodes_and_their_replay(path: Path, tmp_path: Path) -> None:
    answers = {"abc300_a": RIGHT, "2777": f"<answer>{METHOD}</answer>"}

    class Solver:
        name = "solver"

        async def act(self, request: aipo_env.TurnRequest) -> str | Consult:
            if request.assisted and request.turn == 0:
                return Consult("verify", "2*3=6")
            task = request.task_id.removeprefix("livecodebench/")
            return answers[task] if request.seed % 3 else PUBLIC_ONLY

    traces = tmp_path / "traces.jsonl"
    found = aipo_env.collect_rollouts(
        "livecodebench-consult", Solver(), group_size=8, solo_share=0.5, traces=traces, data=path
    )
    assert len(found) == 16
    assert {t.verdict for t in found} == {"correct", "wrong"}
    for trajectory in found:
        last = trajectory.segments[-1].text
        assert (trajectory.reward == 1.0) is (last in answers.values())
    again = aipo_env.replay(traces)
    assert (again.num_trajectories, again.faithful) == (16, True)


def test_a_cut_draft_is_played_again_as_one(path: Path, tmp_path: Path) -> None:
    codec = CharacterCodec()

    class Cut:
        name = "cut"

        async def act(self, request: aipo_env.TurnRequest) -> TokenAction:
            return TokenAction(codec.encode(RIGHT), finish_reason="length")

    env = aipo_env.make("livecodebench", data=path, codec=codec)
    traces = tmp_path / "traces.jsonl"
    found = aipo_env.collect_rollouts(env, Cut(), traces=traces)
    assert [t.stop_reason for t in found] == ["length", "length"]
    assert aipo_env.replay(traces, env).faithful


@needs_sandbox
def test_the_checks_for_families_and_environments(path: Path) -> None:
    for env_id in ("livecodebench", "livecodebench-consult"):
        env = aipo_env.make(env_id, data=path, time_limit_s=0.5)
        remarks = check_taskset(env.tasks)
        assert [re.sub(r"^livecodebench/\S+ ", "", remark) for remark in remarks] == [
            "has no gold answer; whether a right answer counts was not looked at."
        ] * 2
        assert len(check_consult_env(env)) == 1
