"""A run of an evaluation as a log of Inspect (inspect-ai), which its viewer and its analyses read; needs that package.

A sample is a task, an epoch one of its samples. Turns of the policy are assistant messages, its consults tool calls, replies
tool messages; what decides how a learner weighs a reply's tokens is an info event, the verdict the score. The aggregates are
Inspect's own, over the tasks all of whose samples are there: its accuracy is our avg@n, its pass_at_k our pass@k.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inspect_ai.event import Event, InfoEvent, ModelEvent, ScoreEvent, ToolEvent
from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalError,
    EvalLog,
    EvalSample,
    EvalSampleLimit,
    EvalSpec,
    EvalStats,
    recompute_metrics,
)
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    GenerateConfig,
    ModelConfig,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.scorer import CORRECT, INCORRECT, Score
from inspect_ai.tool import ToolCall, ToolCallError

from aipo_env import markup
from aipo_env.protocol import Consult
from aipo_env.trace_files import FAULTS, errors_path
from aipo_env.trajectory import Segment, Source, Trajectory, numbered_traces
from algorithms.token_weights import TokenWeights
from benchmarks.evaluation.facts import Consultation, EpisodeFacts
from benchmarks.evaluation.fields import Json
from benchmarks.evaluation.game import MeteredGame
from benchmarks.evaluation.plan import RunPlan

_WITHHELD = "(withheld: the task is confidential)"


def inspect_log(
    results: Json, run: Json, plan: RunPlan, game: MeteredGame, traces: Path, learner: TokenWeights | None = None
) -> EvalLog:
    """The log of a run.

    Args:
        results: of the evaluation, as in results.json.
        run: one of its runs.
        plan: of that run.
        game: that was played.
        traces: the run's.
        learner: how the training run that made the policy weighed tokens, where that is known.
    """
    policy, ended = str(results["policy"]["name"]), datetime.datetime.fromisoformat(results["timing"]["written"])
    began = ended - datetime.timedelta(seconds=run["timing"]["seconds"])
    rows = {row["index"]: row for row in run["tasks"]}
    files = [file for file in (errors_path(traces), traces) if file.exists()]
    # An episode that a fault ended may have been played again since.
    played = {(t.task_index, t.sample): t for file in files for _, t in numbered_traces(file)}
    samples = [
        _sample(_Record(game, plan, played[key], policy, ended, learner), rows[key[0]]) for key in sorted(played)
    ]
    reducers = [f"pass_at_{row['k']}" for row in (run["metrics"] or {}).get("pass_at_k", ()) if row["k"] > 1]
    log = EvalLog(
        status="success" if run["complete"] else "cancelled",
        eval=EvalSpec(
            created=ended.isoformat(),
            task=run["suite"],
            task_id=plan.name,
            task_display_name=f"{run['title']}, {plan.mode}",
            task_args={"mode": plan.mode, "env_id": run["env_id"], **run["env_options"]},
            solver=plan.mode,
            tags=[plan.mode],
            dataset=EvalDataset(
                name=run["title"],
                location=run["data"].get("repository"),
                samples=len(rows),
                sample_ids=[row["id"] for row in rows.values()],
            ),
            model=policy,
            model_generate_config=GenerateConfig(
                temperature=plan.temperature, top_p=plan.top_p, max_tokens=plan.max_tokens, seed=plan.seed
            ),
            model_roles={
                name: ModelConfig(model=str(helper.get("model") or helper["agent"]))
                for name, helper in run["helpers"].items()
                if plan.assisted
            },
            config=EvalConfig(epochs=plan.num_samples, epochs_reducer=["mean", *reducers]),
            packages=results["versions"],
            metadata={
                **{key: results.get(key) for key in ("policy", "trained_on", "command")},
                **{key: run[key] for key in ("metrics", "rates", "consults", "data", "prompt", "rules")},
            },
        ),
        stats=EvalStats(started_at=began.isoformat(), completed_at=ended.isoformat()),
    )
    whole = {row["id"] for row in rows.values() if row["num_samples"] == plan.num_samples}
    log.samples = [sample for sample in samples if sample.id in whole]
    recompute_metrics(log)
    log.samples = samples
    log.results.total_samples, log.results.completed_samples = plan.num_episodes, run["num_finished"]
    for field in ("model_usage", "role_usage"):
        for sample in samples:
            _add_usage(getattr(log.stats, field), getattr(sample, field))
    return log


def _sample(record: _Record, row: Json) -> EvalSample:
    """An episode, with the row of its task in the results."""
    episode, facts, task = record.episode, record.facts, record.game.task(row["index"])
    target = _WITHHELD if episode.confidential else task.gold
    fault, score = None, None
    if episode.stop_reason in FAULTS:
        said = str(episode.metadata.get("error", episode.stop_reason))
        fault = EvalError(message=said, traceback="", traceback_ansi="")
    else:
        score = Score(
            value=CORRECT if episode.verdict == "correct" else INCORRECT,
            answer=facts.answer,
            explanation=episode.verdict or episode.stop_reason,
            metadata={"stop_reason": episode.stop_reason, "reward": episode.reward_parts},
        )
        record.events.append(ScoreEvent(score=score, target=target, scorer="verdict", **record.stamp))
    role_usage: dict[str, ModelUsage] = {}
    for c in facts.consults:
        if c.metered:
            read, wrote = c.prompt_tokens, c.completion_tokens
            taken = ModelUsage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote, total_cost=c.cost_usd)
            _add_usage(role_usage, {c.agent: taken})
    model_usage = {}
    if facts.tokens:  # what the policy was given, and what it wrote
        wrote, every = facts.tokens["policy"], sum(facts.tokens.values())
        usage = ModelUsage(input_tokens=every - wrote, output_tokens=wrote, total_tokens=every)
        model_usage = {record.policy: usage}
    cut = EvalSampleLimit(type="token", limit=record.plan.max_tokens) if episode.stop_reason == "length" else None
    return EvalSample(
        id=row["id"],
        epoch=episode.sample + 1,
        input=_WITHHELD if episode.confidential else task.problem,
        target=target,
        messages=record.messages,
        output=record.output,
        scores={} if score is None else {"verdict": score},
        events=record.events,
        metadata={
            **{key: row[key] for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash")},
            **row["metadata"],
            "stop_reason": episode.stop_reason,
            "num_consults": episode.num_consults,
            "tokens": dict(facts.tokens),
            "seed": episode.seed,
        },
        model_usage=model_usage,
        role_usage=role_usage,
        error=fault,
        limit=cut,
    )


class _Record:
    """The messages and events of an episode.

    Args:
        game: that was played.
        plan: of the run.
        episode: the trace.
        policy: its name.
        written: stands in place of the times of events, which no trace tells.
        learner: as `inspect_log` takes it.
    """

    def __init__(
        self,
        game: MeteredGame,
        plan: RunPlan,
        episode: Trajectory,
        policy: str,
        written: datetime.datetime,
        learner: TokenWeights | None,
    ) -> None:
        self.game, self.plan, self.episode, self.policy = game, plan, episode, policy
        self.facts = EpisodeFacts.read(episode)
        self.stamp: dict[str, Any] = {"timestamp": written, "working_start": 0.0}
        self.output = ModelOutput(model=policy)
        self.messages: list[ChatMessage] = []
        self.events: list[Event] = []
        self._learner = learner
        self._rules = dataclasses.replace(game.config, assisted=plan.assisted)
        consults, waiting = iter(self.facts.consults), list[ToolCall]()
        self._say(ChatMessageUser(content=_shown(episode.segments[0])))
        for place, segment in enumerate(episode.segments[1:], start=1):
            if segment.source is Source.POLICY and not segment.agent:
                waiting = self._turn(place)
            elif self._answers(segment):
                call = waiting.pop(0) if waiting else ToolCall(f"reply-{place}", segment.agent, {})
                self._reply(segment, call, next(consults, None))
            elif segment.text.startswith(markup.NOTICE_OPEN):
                self._say(ChatMessageUser(content=_shown(segment)))

    def _answers(self, segment: Segment) -> bool:
        """Whether a segment is what a consult brought: a reply, the policy's own in a helper's place, a word on a failure."""
        around = self.plan.self_help and segment.source is Source.TEMPLATE
        return bool(segment.agent) and not around

    def _turn(self, place: int) -> list[ToolCall]:
        """A turn of the policy; its calls."""
        calls = [
            ToolCall(f"call-{place}-{number}", agent, {} if query is None else {"query": query})
            for number, (agent, query) in enumerate(self._calls(place))
        ]
        message = ChatMessageAssistant(
            content=_shown(self.episode.segments[place]), tool_calls=calls or None, model=self.policy
        )
        given = list(self.messages)
        self._say(message)
        self.output = ModelOutput.from_message(message, "tool_calls" if calls else "stop")
        asked = {"model": self.policy, "input": given, "tools": [], "tool_choice": "auto", "config": GenerateConfig()}
        self.events.append(ModelEvent(**asked, output=self.output, **self.stamp))
        return calls

    def _calls(self, place: int) -> Iterator[tuple[str, str | None]]:
        """Whom a turn asks, and what; of a withheld one whom alone, by the replies."""
        turn, *behind = self.episode.segments[place:]
        if turn.withheld is None:
            before = self.episode.segments[:place]
            reading = self.game.dialect.read(turn.text, self._rules, before, ids=turn.token_ids or None)
            yield from ((call.agent, call.query) for call in reading.calls if isinstance(call, Consult))
            return
        for segment in behind:
            if segment.source is Source.POLICY and not segment.agent:
                return
            if self._answers(segment):
                yield segment.agent, None

    def _reply(self, segment: Segment, call: ToolCall, consult: Consultation | None) -> None:
        text, failed = segment.text, segment.source is Source.TEMPLATE
        if segment.source is Source.AGENT and segment.withheld is None:
            text = self.game.dialect.reply_of(segment).text
        elif segment.source is Source.POLICY:
            text = text.removesuffix(self.game.dialect.closer(segment.agent))
        shown = _shown(segment, text)
        said, error = ("", ToolCallError("unknown", shown)) if failed else (shown, None)
        taken = None if consult is None else dataclasses.asdict(consult)
        self._say(
            ChatMessageTool(content=said, function=call.function, tool_call_id=call.id, error=error, metadata=taken)
        )
        asked = {"id": call.id, "function": call.function, "arguments": call.arguments}
        self.events.append(ToolEvent(**asked, result=said, error=error, **self.stamp))
        self.events.append(InfoEvent(source="aipo", data=self._weights(segment), **self.stamp))

    def _weights(self, segment: Segment) -> dict[str, object]:
        """What is known of how a learner weighs a reply's tokens."""
        told: dict[str, object] = {
            "agent": segment.agent,
            "source": segment.source.name.lower(),
            "tokens": segment.num_tokens,
            "mu_known": segment.mu_known,
        }
        if segment.mu_known and segment.logprobs:
            told["mean_log_mu"] = sum(segment.logprobs) / len(segment.logprobs)
        if self._learner is not None and segment.source is Source.AGENT and segment.token_ids:
            # Of the advantage a coefficient depends on the sign alone.
            advantage = 1.0 if self.episode.verdict == "correct" else -1.0
            found = self._learner.coefficients(segment.logprobs, None, advantage)
            if found is not None:
                told["coefficient"] = {"low": min(found.low), "high": max(found.high), "advantage": advantage}
        return told

    def _say(self, message: ChatMessage) -> None:
        message.id = f"message-{len(self.messages)}"
        self.messages.append(message)


def _shown(segment: Segment, text: str | None = None) -> str:
    """A segment's text, or another of it; or how much is withheld."""
    if segment.withheld is None:
        return segment.text if text is None else text
    return f"(withheld: {segment.num_chars} characters, {segment.num_tokens} tokens)"


def _add_usage(total: dict[str, ModelUsage], more: dict[str, ModelUsage]) -> None:
    for name, usage in more.items():
        total[name] = total.get(name, ModelUsage()) + usage
