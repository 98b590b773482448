"""`aipo helpers try`: asks helpers a few questions before a run relies on them."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal

from aipo_agents.noise import change_number
from aipo_agents.text import quote
from aipo_agents.verdicts import leading_verdict
from aipo_env import markup
from aipo_env.checks import check_count
from aipo_env.console import command, interrupted, print_json
from aipo_env.errors import ConfigurationError
from aipo_env.game import ConsultGame
from aipo_env.make_options import Options
from aipo_env.protocol import Consult, Usage
from aipo_env.tasks.base import Task, TaskSet
from algorithms.servers import Servers

JUDGES = ("verify",)
"""The helpers that are asked about claims; the others are asked about the problem."""
_CLAIM = "The answer is "


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One question to one helper, and what came of it; of a confidential task without its texts."""

    helper: str
    task: str
    claim: Literal["true", "false"] | None
    """What the question claims to be the answer; None where it claims nothing."""
    query: str
    reply: str
    error: str | None
    verdict: str | None
    """What a reply begins with, as those of judges do."""
    gives_away: bool
    knows_mu: bool
    """Whether a policy with the game's tokenizer could use the reply's mu; without a tokenizer, whether the reply has it."""
    seconds: float
    usage: Usage | None


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
    for helper, index in ((helper, index) for helper in game.agent_names for index in range(number)):
        for claim, question in _questions(helper, game.tasks, game.task(index), f"{seed}/{index}", query):
            episode = game.make_episode(index, seed=seed)
            episode.act(Consult(helper, question))
            started = time.monotonic()
            (reply,) = (await game.serve(episode)).values()
            seconds = time.monotonic() - started
            knows_mu = (
                reply.logprobs is not None
                if game.codec is None
                else any(segment.mu_known for segment in episode.segments)
            )
            texts: tuple[str, str, str | None] = question, reply.text, reply.error
            if episode.task.confidential:
                asked, said, error = (f"(withheld: {len(text or '')} characters)" for text in texts)
                texts = asked, said, reply.error and error
            yield Trial(
                helper, episode.task.id, claim, *texts, leading_verdict(reply.text), reply.gives_away, knows_mu, seconds,
                reply.usage,
            )  # fmt: skip


def _questions(
    helper: str, tasks: TaskSet, task: Task, seed: str, query: str
) -> Iterator[tuple[Literal["true", "false"] | None, str]]:
    if helper not in JUDGES or not task.gold:
        yield None, markup.escape(query.replace("{problem}", task.problem))
        return
    yield "true", markup.escape(_CLAIM + task.gold)
    if (wrong := corrupted(task, tasks, random.Random(seed))) is not None:
        yield "false", markup.escape(_CLAIM + wrong)


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
    """What one helper's trials come to; a number that nobody told is None."""
    usages = [trial.usage for trial in trials if trial.usage is not None]
    total = sum(usages, Usage(cost_usd=0.0)) if usages else None
    answered = [trial for trial in trials if trial.error is None]
    found = {
        f"{claim}_claims": dict(Counter(t.verdict or "no verdict" for t in answered if t.claim == claim))
        for claim in ("true", "false")
        if any(trial.claim == claim for trial in trials)
    }
    return {
        "asked": len(trials),
        "answered": len(answered),
        "errors": dict(Counter(trial.error for trial in trials if trial.error is not None)),
        "gave_away": sum(trial.gives_away for trial in trials),
        "knows_mu": sum(trial.knows_mu for trial in trials),
        **found,
        "prompt_tokens": total and total.prompt_tokens,
        "completion_tokens": total and total.completion_tokens,
        "cost_usd": total and total.cost_usd,
        "median_seconds": round(statistics.median(trial.seconds for trial in trials), 3),
        "longest_seconds": round(max(trial.seconds for trial in trials), 3),
    }


@command(
    "aipo helpers try --env math-consult --agents verify reasoning=my_package:Solver",
    "aipo helpers try --env math500-consult --helper-server http://localhost:8000/v1 --helper-model big --json",
    "aipo helpers try --env rulebook-consult --json | jq .helpers.verify.false_claims",
)
def helpers(
    action: Literal["try"],
    /,
    *,
    env: str = "rulebook-consult",
    agents: tuple[str, ...] = (),
    tasks: int = 5,
    env_options: Options | None = None,
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
        agents: helpers, each "name", "name=package.module:Class" or "name=path/to/policy".
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
    from algorithms.rollout_command import load_codec

    servers = Servers(None, None, helper_server, helper_model, retries, requests_per_minute)
    check_count("--tasks", tasks, what="how many tasks helpers are asked about")
    if not env_spec(env).assisted:
        raise ConfigurationError(f"--env {env} has no helpers; give the id that ends in '-consult'.")
    codec = None if policy is None else load_codec(policy)
    options: dict[str, Any] = {**(env_options or {}), "agents": servers.agents(agents), "codec": codec}
    made = aipo_env.make(env, **options)
    trials: dict[str, list[Trial]] = {name: [] for name in made.game.agent_names}

    async def run() -> None:
        try:
            async for trial in try_helpers(made.game, tasks, seed=seed, query=query):
                trials[trial.helper].append(trial)
                if not json:
                    print(_shown(trial), flush=True)
        finally:
            await made.game.aclose()

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        return interrupted("Nothing was written.")
    found = {name: summary(asked) for name, asked in trials.items()}
    if json:
        rows = {name: row | {"replies": list(map(dataclasses.asdict, trials[name]))} for name, row in found.items()}
        print_json({"env": made.game.env_id, "helpers": rows})
    else:
        for name, row in found.items():
            print(f"\n{name}", *(f"{key.replace('_', ' ')}: {value}" for key, value in row.items()), sep="\n  ")
    return 0 if all(row["answered"] for row in found.values()) else 1


def _shown(trial: Trial) -> str:
    marks = f"  {trial.claim} claim" * (trial.claim is not None) + "  GIVES THE ANSWER AWAY" * trial.gives_away
    said = trial.reply if trial.error is None else f"error: {trial.error}"
    head = f"{trial.helper} on {trial.task}, {trial.seconds:.2f} s{marks}"
    return f"{head}\n  asked: {quote(trial.query, 200)}\n  said:  {quote(said, 400)}"
