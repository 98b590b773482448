"""Any environment id for verifiers (0.4.0): `vf-eval aipo-verifiers --env.taskset.env rulebook-consult`, and prime-rl.

One seat is the policy; its trace is what is trained. Helpers answer in this process, or are seats of their own, played by
models and never trained. What prime-rl makes of it, and what is lost: docs/guides/verifiers.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import httpx
import verifiers.v1 as vf
from verifiers.v1.dialects.chat import message_to_wire

from aipo_agents.backends.base import ChatSampling, Generation, Message
from aipo_agents.llm import LLMAgent
from aipo_env import Segment, Source
from aipo_env.errors import ConfigurationError, ServiceError
from aipo_env.game import ConsultGame
from aipo_env.gym_env import ConsultEnv
from aipo_env.registry import make_game
from aipo_env.tasks.base import is_confidential

Role = Literal["verify", "knowledge", "reasoning"]
_CONFIDENTIAL = "{} is confidential, and verifiers writes and uploads texts; take others."


class AipoData(vf.TaskData):  # type: ignore[misc]
    """What is written down of a task: no answer, which only the environment knows."""

    index: int
    """The task's index in its family."""


class AipoTask(vf.Task[AipoData]):  # type: ignore[misc]
    """A task; the environment scores it."""

    @property
    def key(self) -> str:
        """The family's name of the task, the same in every run."""
        return str(self.data.id)


class AipoTasksetConfig(vf.TasksetConfig):  # type: ignore[misc]
    """`--env.taskset.*`."""

    env: str = "rulebook-consult"
    """Environment id; `aipo envs` lists them."""
    options: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """Of `aipo_env.make`."""
    num_tasks: int | None = None
    """The first tasks of the family; all of them, or 1,000 of an endless one, if left out."""


class AipoTaskset(vf.Taskset[AipoTask, AipoTasksetConfig]):  # type: ignore[misc]
    """The tasks of an environment id.

    Raises:
        ConfigurationError: the tasks are confidential, or the options name a dialect.
    """

    def __init__(self, config: AipoTasksetConfig) -> None:
        super().__init__(config)
        if "dialect" in config.options:
            raise ConfigurationError("verifiers speaks in messages, with tags: leave the option 'dialect' out.")
        self.game: ConsultGame = make_game(config.env, **config.options)
        if is_confidential(self.game.tasks):
            raise ConfigurationError(_CONFIDENTIAL.format(config.env))

    def load(self) -> Iterator[AipoTask]:
        """The tasks in the family's order, with the prompt of `aipo_env.make`."""
        for index in range(self.config.num_tasks or self.game.tasks.num_tasks or 1000):
            episode = self.game.make_episode(index)
            if episode.task.confidential:
                raise ConfigurationError(_CONFIDENTIAL.format(episode.task.id))
            prompt = [vf.UserMessage(content=episode.transcript)]
            yield AipoTask(
                AipoData(id=episode.task.id, name=episode.task.id, prompt=prompt, index=index), self.config.task
            )


class AipoEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """`--env.*`: a seat for the policy, and one for each role that a model may play."""

    policy: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    verify: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    knowledge: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    reasoning: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    seats: list[Role] = []  # noqa: RUF012 - pydantic copies it
    """The helpers that are played at their seats; the others are those of the environment."""


class AipoEnv(vf.Env[AipoEnvConfig]):  # type: ignore[misc]
    """An episode: the policy talks, helpers and the grader answer."""

    async def setup(self, agents: vf.Agents) -> None:
        """Nothing that a helper writes trains the policy's run."""
        for role in ("verify", "knowledge", "reasoning"):
            getattr(agents, role).trainable = False

    async def run(self, task: AipoTask, agents: vf.Agents) -> None:
        """Plays one episode; its rewards and sources go to the policy's trace."""
        game = copy.copy(self.taskset.game)
        game.agents = game.agents | {role: LLMAgent(role, _Seat(getattr(agents, role))) for role in self.config.seats}
        env = ConsultEnv(game)
        async with agents.policy.interaction(task) as interaction:
            seed = int.from_bytes(interaction.trace.id.encode())  # each rollout of a task has its own
            await env.areset(seed=seed, options={"task_index": task.data.index})
            episode = env.episode
            told = [_rows(episode.segments)]
            turn = await interaction.turn()
            while not turn.terminated:
                before = len(episode.segments)
                said = [m.content or "" for m in turn.messages if isinstance(m, vf.AssistantMessage)]
                await env.astep(said[-1] if said else "")
                new = episode.segments[before:]
                heard = [segment for segment in new if segment.source is not Source.POLICY]
                told += [_rows([s for s in new if s.source is Source.POLICY]), *([_rows(heard)] if heard else [])]
                if episode.done:
                    break
                turn = await interaction.turn("".join(segment.text for segment in heard))
        episode.truncate("length")  # if a limit of the seat ended it
        trace = interaction.trace
        if trace.ok:  # an episode that a fault cut has no reward
            for name, value in (episode.reward_parts or {"correct": 0.0}).items():
                trace.record_reward(name, value)
        trace.record_metric("num_consults", episode.num_consults)
        own = env.trajectory
        trace.info["aipo"] = {"sources": told, "stop_reason": own.stop_reason, "verdict": own.verdict, "seed": own.seed}


def _rows(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Who wrote how much of a message; its text stands in the message."""
    return [{"source": s.source.name.lower(), "agent": s.agent, "chars": s.num_chars} for s in segments]


def keep_replies(trace: vf.Trace, min_outcome: float = 1.0) -> list[list[bool]]:
    """A filter of prime-rl's `echo`: helpers' replies, of rollouts with this outcome (the reward without costs) or a better.

    Returns:
        For each branch that has sampled tokens, whether a token is in a message with a reply.
    """
    outcome = sum(reward.value for name, reward in trace.rewards.items() if reward and name != "consult_cost")
    helped = [any(row["source"] == "agent" for row in message) for message in trace.info["aipo"]["sources"]]
    return [
        [outcome >= min_outcome and helped[number] for number, node in enumerate(b.nodes) for _ in node.token_ids]
        for b in trace.branches
        if any(b.sampled_mask)
    ]


class _Seat:
    """A seat as the model behind a helper; what it samples with is the seat's own affair."""

    def __init__(self, agent: vf.Agent) -> None:
        self.model, self._agent = "seat", agent

    async def chat(self, messages: Sequence[Message], sampling: ChatSampling) -> Generation:
        """What the seat says to a role's prompt and a request."""
        system, user = (message.content for message in messages)
        trace = await self._agent.run(vf.Task(vf.TaskData(system_prompt=system, prompt=user)))
        said = [node.message.content for node in trace.nodes if node.sampled]
        if not trace.ok or not said:
            raise ServiceError(f"the seat gave no reply ({trace.stop_condition or 'an error, which its trace has'}).")
        return Generation(str(said[-1] or ""))

    async def aclose(self) -> None:
        """There is nothing to close: seats are verifiers'."""


class AipoHarness(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc]
    """A chat without tools, in this process: one model call for each turn."""

    APPENDS_SYSTEM_PROMPT = SUPPORTS_RESUME = True
    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: object, data: vf.TaskData
    ) -> vf.ProgramResult:
        """The model's next message, through verifiers' own endpoint, which records it."""
        system, prompt = self.resolve_prompt(data)
        messages = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt or [])
        if system is not None:
            messages = [vf.SystemMessage(content=system), *messages]
        body = {"model": ctx.model, "messages": [message_to_wire(message) for message in messages]}
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
            reply = await client.post(
                f"{endpoint}/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"}
            )
        return vf.ProgramResult(0 if reply.is_success else 1, "", "" if reply.is_success else reply.text)
