"""verifiers' own command line plays our episodes; a server with a script stands for the models."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gymnasium.utils.seeding import np_random

import aipo_env
from aipo_env.errors import ConfigurationError
from aipo_env.grading import Grade
from aipo_env.registry import make_game
from aipo_env.tasks.base import Task

pytest.importorskip("verifiers", reason="needs verifiers (the extra verifiers)")
import verifiers.v1 as vf
from verifiers.v1.utils.loaders import load_environment, resolve_env_config

from algorithms.adapters.verifiers import AipoTaskset, AipoTasksetConfig, keep_replies

ROOT = Path(__file__).parents[3]
PLUGIN = ROOT / "examples" / "aipo-verifiers"
RULE = "Each place gives the sum of both digits."
OPTIONS = {"level": 2, "consult_cost": 0.125, "max_turns": 4}  # as in the example
NUM_TASKS = 5


def turns(gold: str, number: int) -> list[str]:
    """What the policy says to the task of this number, turn by turn."""
    return [
        [f"\\boxed{{{gold}}}"],
        ['<consult agent="knowledge">rule?</consult>', f"\\boxed{{{gold}}}"],
        ['I ask. <consult agent="knowledge">rule?</consult> and go on', "  hm\n", "\\boxed{1}"],
        ["nothing"] * 4,
        ['<consult agent="reasoning">step?</consult>', f"\\boxed{{{gold}}}"],
    ][number]


HELPERS: dict[str, Any] = {"verify": "verify", "knowledge": lambda query: RULE, "reasoning": "reasoning"}


def in_process() -> list[dict[str, Any]]:
    """The same episodes, with the prompt, the gold answer and the segments of each."""
    env = aipo_env.make("rulebook-consult", agents=HELPERS, **OPTIONS)  # type: ignore[arg-type]
    rows = []
    for number in range(NUM_TASKS):
        observation, _ = env.reset(seed=number, options={"task_index": number})
        task = env.episode.task
        prompt, played = observation["prompt"], turns(task.gold, number)
        for text in played:
            env.step(text)
        assert env.episode.done
        rows.append({"prompt": prompt, "turns": played, "gold": task.gold, "trajectory": env.trajectory, "id": task.id})
    return rows


@contextlib.contextmanager
def server(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A chat server: the script's next turn for the policy, the rule for whoever has a role's prompt."""
    script = {row["prompt"].strip(): row["turns"] for row in rows}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
            said = RULE
            if messages[0]["role"] == "user":
                prompt = messages[0]["content"].strip()
                if prompt.startswith("{"):  # what verifiers says of an OpenEnv observation
                    prompt = json.loads(prompt)["observation"]["prompt"].strip()
                said = script[prompt][sum(m["role"] == "assistant" for m in messages)]
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            row = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(json.dumps(row))))
            self.end_headers()
            self.wfile.write(json.dumps(row).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{served.server_port}/v1"
        finally:
            served.shutdown()
            thread.join()


def evaluated(rows: list[dict[str, Any]], settings: Path, folder: Path) -> list[dict[str, Any]]:
    """The traces that verifiers' command line leaves in a folder."""
    with server(rows) as url:
        command = [
            str(Path(sys.executable).with_name("vf-eval")), "@", str(settings), "--model", "m", "--client.base-url", url,
            "--client.api-key-var", "NO_KEY", "--no-rich", "-o", str(folder / "out"),
        ]  # fmt: skip
        variables = {
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, PLUGIN, folder))),
            "NO_KEY": "none",
            "HOME": str(folder),
        }
        environment = {**os.environ, **variables}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    [path] = (folder / "out").glob("*/traces.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_its_own_openenv_tasks_play_our_server(tmp_path: Path) -> None:
    pytest.importorskip("openenv", reason="needs openenv-core (the extra openenv)")
    from tests.algorithms.adapters.test_openenv import serving

    rows, settings = in_process(), tmp_path / "openenv.toml"
    # verifiers 0.4.0 reads an attribute that the client of openenv-core 0.3.0 does not have.
    shim = "from openenv.core import GenericEnvClient as C\nC._base_url = property(lambda c: c._ws_url.removesuffix('/ws'))\n"
    (tmp_path / "sitecustomize.py").write_text(shim)
    with serving(make_game("rulebook-consult", agents=HELPERS, **OPTIONS)) as address:
        resets = ", ".join(f"{{seed = {number}, task_index = {number}}}" for number in range(NUM_TASKS))
        settings.write_text(
            "num_rollouts = 1\npush = false\n"
            f'[env.taskset]\nid = "openenv"\nbase_url = "http://{address}"\nresets = [{resets}]\n'
            '[env.player]\nharness = {id = "aipo-verifiers"}\nruntime = {type = "subprocess"}\n'
        )
        episodes = evaluated(rows, settings, tmp_path)
    assert all(row["ok"] for row in episodes), episodes
    paid = {
        row["task"]["data"]["reset"]["seed"]: row["traces"][0]["rewards"]["openenv_reward"]["score"] for row in episodes
    }
    assert paid == {number: row["trajectory"].reward for number, row in enumerate(rows)}
    assert sorted({value > 0 for value in paid.values()}) == [False, True]


def test_the_command_line_gives_the_rewards_and_the_sources_of_our_own_episodes(tmp_path: Path) -> None:
    rows = in_process()
    episodes = {
        row["task"]["data"]["index"]: row for row in evaluated(rows, ROOT / "examples" / "verifiers.toml", tmp_path)
    }
    assert sorted(episodes) == list(range(NUM_TASKS))
    for number, expected in enumerate(rows):
        episode, trajectory = episodes[number], expected["trajectory"]
        assert episode["ok"], episode
        assert episode["task"]["key"] == expected["id"]
        assert expected["gold"] not in json.dumps(episode["task"]["data"])
        seats = {trace["agent"]["name"]: trace for trace in episode["traces"]}
        asked = any(segment.agent == "knowledge" for segment in trajectory.segments)
        assert {name: trace["agent"]["trainable"] for name, trace in seats.items()} == {
            "policy": True,
            **({"knowledge": False} if asked else {}),
        }
        policy = seats["policy"]
        rewards = {name: reward["score"] for name, reward in policy["rewards"].items()}
        assert rewards == (trajectory.reward_parts or {"correct": 0.0})
        assert sum(rewards.values()) == trajectory.reward
        assert policy["metrics"]["num_consults"] == trajectory.num_consults
        own = policy["info"]["aipo"]
        assert (own["stop_reason"], own["verdict"]) == (trajectory.stop_reason, trajectory.verdict)
        rng, _ = np_random(int.from_bytes(policy["id"].encode()))  # the rollout's, not the task's
        assert own["seed"] == rng.integers(2**31)
        told = [(row["source"], row["agent"], row["chars"]) for message in own["sources"] for row in message]
        assert told == [(s.source.name.lower(), s.agent, s.num_chars) for s in trajectory.segments]
        # One entry for each message; the policy's are those that were sampled.
        kept = own["sources"][: len(policy["nodes"])]
        for node, message in zip(policy["nodes"], kept, strict=True):
            assert node.get("sampled", False) == (message[0]["source"] == "policy")
            if not node.get("sampled", False):
                assert len(node["message"]["content"]) == sum(row["chars"] for row in message)

        good = trajectory.outcome == 1
        filled = vf.WireTrace.model_validate(policy)
        for node in filled.nodes:
            node.token_ids, node.mask = [7, 7], [node.sampled] * 2
        [mask] = keep_replies(filled)
        assert mask == [good and row[0]["source"] == "agent" for row in kept for _ in range(2)]


def config(**taskset: Any) -> vf.EnvConfig:
    return resolve_env_config({"taskset": {"id": "aipo-verifiers", **taskset}})


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PLUGIN)


def test_the_id_loads_an_environment_with_its_tasks() -> None:
    env = load_environment(config(env="rulebook", num_tasks=3, options={"level": 3}))
    tasks = list(env.taskset)
    assert [task.data.id for task in tasks] == [f"rulebook/l3/train/0/{number}" for number in range(3)]
    assert (
        tasks[0].data.prompt[0].content
        == aipo_env.make("rulebook", level=3).reset(options={"task_index": 0})[0]["prompt"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dialect": "tools"}, "leave the option 'dialect' out"), ({"levl": 2}, "Did you mean 'level'")],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_environment(config(options=options))


class Marked:
    """A family of which one task is confidential."""

    name, num_tasks = "marked", 2

    def task(self, index: int) -> Task:
        return Task(id=f"number {index}", problem="1 + 1?", gold="2", confidential=index == 1)

    def sample_index(self, rng: object) -> int:
        return 0

    def grade(self, task: Task, answer: str) -> Grade:
        raise AssertionError("nobody answers")


def test_a_task_that_is_confidential_by_itself_is_refused() -> None:
    taskset = AipoTaskset(AipoTasksetConfig(env="rulebook", options={"tasks": Marked()}))
    tasks = taskset.load()
    assert next(tasks).data.id == "number 0"
    with pytest.raises(ConfigurationError, match="number 1 is confidential"):
        next(tasks)


class Scripted(vf.Agents):
    """A policy's seat that says what is given, and then is over as a seat is whose limit is reached."""

    def __init__(self, trace: vf.Trace, said: list[str]) -> None:
        self.trace, self.said = trace, said

    @property
    def policy(self) -> Scripted:
        return self

    @contextlib.asynccontextmanager
    async def interaction(self, task: vf.Task) -> AsyncIterator[Scripted]:
        yield self

    async def turn(self, message: str = "") -> SimpleNamespace:
        messages = [vf.AssistantMessage(content=self.said.pop(0))] if self.said else []
        return SimpleNamespace(messages=messages, terminated=not messages)


@pytest.mark.parametrize("fault", [False, True])
def test_what_a_limit_cuts_has_a_reward_and_what_a_fault_cuts_has_none(fault: bool) -> None:
    env = load_environment(config(env="rulebook-consult", num_tasks=1, options=OPTIONS))
    [task] = env.taskset
    trace = vf.WireTrace.model_validate(
        {"task": {"type": "Task", "data": task.data.model_dump()}, "agent": {"config": {}}, "ok": not fault}
    )
    asyncio.run(env.run(task, Scripted(trace, ['<consult agent="knowledge">rule?</consult>'])))
    rewards = {name: reward.value for name, reward in trace.rewards.items() if reward}
    assert rewards == ({} if fault else {"correct": 0.0, "consult_cost": -0.125})
    assert trace.info["aipo"]["stop_reason"] == "length"
