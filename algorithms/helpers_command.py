"""`aipo helpers try`: asks helpers a few questions before a run relies on them."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Literal

import tyro

from aipo_agents.noise import change_number
from aipo_agents.text import quote
from aipo_agents.verdicts import leading_verdict
from aipo_env import markup
from aipo_env.checks import check_count
from aipo_env.console import command, interrupted, print_json
from aipo_env.errors import ConfigurationError
from aipo_env.game import ConsultGame
from aipo_env.protocol import Consult, Reply, Usage
from aipo_env.tasks.base import Task, TaskSet
from algorithms.servers import Servers

JUDGES = ("verify",)
"""The helpers that are asked about claims; the others are asked about the problem."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One question to one helper, and what came of it."""

    helper: str
    task_id: str
    claim: Literal["true", "false"] | None
    """What the question claims to be the answer; None where it claims nothing."""
    query: str
    reply: Reply
    seconds: float
    knows_mu: bool
    """Whether a policy of the given tokenizer could learn from the reply with its mu; without one, whether the reply has it."""
    confidential: bool = False

    @property
    def verdict(self) -> str:
        """What a judge's reply says of a claim."""
        return leading_verdict(self.reply.text) or "no verdict"

    def to_json(self) -> dict[str, object]:
        """The trial for scripts; of a confidential task without its texts."""
        texts = {"query": self.query, "reply": self.reply.text, "error": self.reply.error}
        if self.confidential:
            texts = {name: text and f"(withheld: {len(text)} characters)" for name, text in texts.items()}
        said = {"task": self.task_id, "claim": self.claim, **texts, "gives_away": self.reply.gives_away}
        return said | {"seconds": self.seconds, "usage": self.reply.usage and dataclasses.asdict(self.reply.usage)}


async def try_helpers(
    game: ConsultGame, num_tasks: int, *, seed: int = 0, query: str = "{problem}"
) -> AsyncIterator[Trial]:
    """Asks each helper of a game about its first tasks, one after the other, as a policy would in its first turn.

    Args:
        game: with helpers; it then marks replies that give the answer away.
        num_tasks: how many.
        seed: of the helpers' seeds and of the false claims.
        query: what helpers other than judges are asked; `{problem}` stands for the problem.
    """
    game.finds_leaks = True
    number = num_tasks if game.tasks.num_tasks is None else min(num_tasks, game.tasks.num_tasks)
    for helper in game.agent_names:
        for index in range(number):
            task = game.task(index)
            for claim, question in _questions(helper, game.tasks, task, f"{seed}/{index}", query):
                episode = game.make_episode(index, seed=seed)
                episode.act(Consult(helper, question))
                started = time.monotonic()
                (reply,) = (await game.serve(episode)).values()
                seconds = time.monotonic() - started
                knows_mu = reply.logprobs is not None if game.codec is None else episode.segments[-1].mu_known
                yield Trial(helper, task.id, claim, question, reply, seconds, knows_mu, episode.task.confidential)


def _questions(
    helper: str, tasks: TaskSet, task: Task, seed: str, query: str
) -> Iterator[tuple[Literal["true", "false"] | None, str]]:
    if helper not in JUDGES or not task.gold:
        yield None, markup.escape(query.replace("{problem}", task.problem))
        return
    yield "true", markup.escape(f"The answer is {task.gold}")
    if (wrong := corrupted(task, tasks, random.Random(seed))) is not None:
        yield "false", markup.escape(f"The answer is {wrong}")


def corrupted(task: Task, tasks: TaskSet, rng: random.Random) -> str | None:
    """A wrong answer of the gold's form, which the family's grader calls wrong too; None where none was found."""
    gold = task.gold
    for _ in range(8):
        if len(gold) == 1 and gold.isupper():
            wrong = rng.choice([letter for letter in "ABCD" if letter != gold])
        else:
            wrong = change_number(gold, rng) if any(char in "0123456789" for char in gold) else f"{gold}+1"
        if not tasks.grade(task, wrong).correct:
            return wrong
    return None


def summary(trials: Sequence[Trial]) -> dict[str, object]:
    """What one helper's trials come to."""
    replies, times = [trial.reply for trial in trials], [trial.seconds for trial in trials]
    usages = [reply.usage for reply in replies if reply.usage is not None]
    total = sum(usages, Usage(cost_usd=0.0)) if usages else None
    errors = Counter("(withheld)" if t.confidential else t.reply.error for t in trials if t.reply.error is not None)
    return {
        "asked": len(trials),
        "answered": sum(reply.error is None for reply in replies),
        "errors": dict(errors),
        "gave_away": sum(reply.gives_away for reply in replies),
        "knows_mu": sum(trial.knows_mu for trial in trials),
        "verdicts": {
            claim: dict(Counter(t.verdict for t in trials if t.claim == claim and t.reply.error is None))
            for claim in ("true", "false")
            if any(trial.claim == claim for trial in trials)
        },
        "prompt_tokens": total and total.prompt_tokens,
        "completion_tokens": total and total.completion_tokens,
        "cost_usd": total and total.cost_usd,
        "seconds": {"median": statistics.median(times), "max": max(times)},
    }


@command(
    "aipo helpers try --env math-consult --agents verify reasoning=my_package:Solver",
    "aipo helpers try --env math500-consult --helper-server http://localhost:8000/v1 --helper-model big --json",
    "aipo helpers try --env rulebook-consult --json | jq .helpers.verify.verdicts",
)
def helpers(
    action: Annotated[Literal["try"], tyro.conf.Positional],
    env: str = "rulebook-consult",
    agents: tuple[str, ...] = (),
    tasks: int = 5,
    env_options: dict[str, int | float | str] | None = None,
    query: str = "{problem}",
    policy: str | None = None,
    seed: int = 0,
    helper_server: str | None = None,
    helper_model: str | None = None,
    retries: int | None = None,
    requests_per_minute: float | None = None,
    json: bool = False,
) -> int:
    """Ask helpers about a handful of tasks: replies, verdicts, tokens, cost, latency, errors, answers given away.

    Verify is asked to judge the right answer, and a wrong one of the same form; the others are given the problem. A reply gives
    the answer away if it states the gold answer, and the question did not. Exits with 1 if a helper answered nothing.

    Args:
        action: "try".
        env: environment id, one with helpers.
        agents: helpers, each "name" or "name=package.module:Class".
        tasks: the first tasks of the family.
        env_options: options of the environment, as `--env-options data folder leak_filter 1`.
        query: what helpers other than verify are asked; {problem} stands for the problem.
        policy: names the tokenizer of the policy that is to learn from replies: those are counted whose mu it could use.
        seed: decides the wrong answers, and the helpers' seeds.
        helper_server: address of a server whose model plays those helpers that are given by name alone.
        helper_model: the name under which it serves that model.
        retries: how often a server is sent again what failed in a way that may pass (4).
        requests_per_minute: requests that a server is sent a minute; no limit if left out.
        json: one JSON object: "env", and for each of "helpers" what the words say, and its "replies".
    """
    import aipo_env
    from aipo_env.registry import env_spec
    from algorithms.server_rollout import load_codec

    servers = Servers(None, None, helper_server, helper_model, retries, requests_per_minute)
    check_count("--tasks", tasks, what="how many tasks helpers are asked about", least=1)
    if not env_spec(env).assisted:
        raise ConfigurationError(f"--env {env} has no helpers; give the id that ends in '-consult'.")
    codec = None if policy is None else load_codec(policy)
    made = aipo_env.make(env, agents=servers.agents(agents), codec=codec, **(env_options or {}))  # type: ignore[arg-type]
    trials: list[Trial] = []

    async def run() -> None:
        try:
            async for trial in try_helpers(made.game, tasks, seed=seed, query=query):
                trials.append(trial)
                if not json:
                    print("\n".join(_shown(trial)), flush=True)
        finally:
            await made.game.aclose()

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        return interrupted("Nothing was written.")
    found = {name: summary([t for t in trials if t.helper == name]) for name in made.game.agent_names}
    if json:
        rows = {
            name: row | {"replies": [t.to_json() for t in trials if t.helper == name]} for name, row in found.items()
        }
        print_json({"env": made.game.env_id, "helpers": rows})
    else:
        print("\n".join(line for name, row in found.items() for line in _summed_up(name, row)))
    return 0 if all(row["answered"] for row in found.values()) else 1


def _shown(trial: Trial) -> list[str]:
    row = trial.to_json()
    marks = [f"{trial.claim} claim"] * (trial.claim is not None) + ["GIVES THE ANSWER AWAY"] * trial.reply.gives_away
    head = "  ".join([f"{trial.helper} on {trial.task_id}, {trial.seconds:.2f} s", *marks])
    said = f"error: {row['error']}" if trial.reply.error is not None else str(row["reply"])
    return [head, f"  asked: {quote(str(row['query']), 200)}", f"  said:  {quote(said, 400)}"]


def _summed_up(name: str, row: dict[str, object]) -> Iterator[str]:
    seconds = row["seconds"]
    assert isinstance(seconds, dict) and isinstance(row["verdicts"], dict) and isinstance(row["errors"], dict)  # noqa: PT018
    yield (
        f"\n{name}: answered {row['answered']} of {row['asked']}, gave the answer away in {row['gave_away']}, mu known of "
        f"{row['knows_mu']}; {seconds['median']:.2f} s (median), {seconds['max']:.2f} s (longest)"
    )
    if row["prompt_tokens"] is not None:
        cost = "unknown" if row["cost_usd"] is None else f"{row['cost_usd']:.4f} USD"
        yield f"  tokens: {row['prompt_tokens']:,} read, {row['completion_tokens']:,} written; cost: {cost}"
    for claim, verdicts in row["verdicts"].items():
        yield f"  {claim} claims: " + ", ".join(f"{verdict} {count}" for verdict, count in sorted(verdicts.items()))
    for error, count in row["errors"].items():
        yield f"  {count} x {error}"
