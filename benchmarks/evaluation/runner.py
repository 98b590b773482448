"""Running an evaluation from its configuration to its results; the same call goes on where it was cut."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aipo_env
from aipo_env.console import repeats_collapsed
from aipo_env.errors import ConfigurationError, DataFormatError, MissingDependencyError, ServiceError
from aipo_env.gym_env import ConsultEnv
from aipo_env.installation import install_command
from aipo_env.make_options import AgentLike, Options
from algorithms.policies.loading import warn_unreadable
from algorithms.run_folder import CONFIG, replace, trained_on, write_whole
from benchmarks.evaluation.config import EvaluationConfig
from benchmarks.evaluation.episodes import RunEpisodes
from benchmarks.evaluation.facts import Finisher
from benchmarks.evaluation.folder import EvaluationFolder, read_json, write_json
from benchmarks.evaluation.game import MeteredGame, metered
from benchmarks.evaluation.plan import plan_run
from benchmarks.evaluation.plots import write_plots
from benchmarks.evaluation.results import command_line, evaluation_result, run_result, run_settings, versions
from benchmarks.evaluation.samplers import TurnSampler, open_sampler
from benchmarks.evaluation.suites import SUITES, Suite, find_suite
from benchmarks.evaluation.tables import results_markdown

if TYPE_CHECKING:
    from algorithms.codec import TransformersCodec
    from algorithms.policies import Policy
    from algorithms.token_weights import TokenWeights


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to."""

    results: dict[str, Any]
    """What results.json holds."""
    folder: Path
    fault: str = ""
    """Why it ended before its end; the same call goes on."""

    @property
    def complete(self) -> bool:
        """Whether every episode was played and graded."""
        return bool(self.results["complete"])


def evaluate_policy(
    config: EvaluationConfig,
    *,
    policy: Policy | None = None,
    agents: Mapping[str, AgentLike] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Evaluates a policy on suites; writes traces, results.json, results.md and figures to `config.out`.

    Args:
        config: what to evaluate, and how.
        policy: a policy that is loaded already, in place of `config.policy`.
        agents: the helpers, in place of `config.agents`: what `aipo_env.make(agents=...)` takes.
        progress: shows bars on standard error.

    Returns:
        The results. They are incomplete where episodes were ended by a fault; the same call plays those again.

    Raises:
        ConfigurationError: for what cannot work, or a folder that holds another evaluation.
        DataNotFoundError: when tasks or policy are neither local nor reachable.
        OSError: when the disk is full; what was finished is on it.

    Example:
        >>> from benchmarks.evaluation import EvaluationConfig, evaluate_policy
        >>> config = EvaluationConfig("rulebook", mode="solo", num_tasks=2, samples=2, out="/tmp/aipo-eval-example")
        >>> evaluate_policy(config).complete
        True
    """
    from algorithms.rollout_command import load_codec

    if policy is not None and not config.local:
        raise ConfigurationError("policy= is a model of transformers; leave out --server and --backend vllm.")
    if config.inspect is not None:
        _need_inspect()  # before anything is played, and not behind it
    folder = EvaluationFolder(Path(config.out))
    codec = policy.codec if policy is not None else None if config.chat else load_codec(config.policy)
    # Data and helpers first: loading a large model takes longer than finding out that they are not there.
    suites = {name: _OpenSuite(find_suite(name), config, codec, agents) for name in config.suites}
    sampler: TurnSampler | None = None
    try:
        sampler = open_sampler(config, codec, policy)
        shared: dict[str, object] = {
            "policy": {**sampler.description, "tokenizer": None if codec is None else codec.fingerprint},
            "trained_on": None if config.server else trained_on(config.policy),
            "seed": config.seed,
            "versions": versions(),
        }
        runs = [
            _Run(suite, assisted, sampler.context, config, folder)
            for suite in suites.values()
            for assisted in config.modes
        ]
        folder.claim(shared, {run.plan.name: run.settings for run in runs})
        command, others = command_line(config), _other_runs(folder, runs)
        done: list[dict[str, object]] = []
        fault = ""
        for run in runs:
            if not fault:
                fault = run.play(sampler, progress=progress)
            done.append(run.result(config))
            complete = len(done) == len(runs) and all(r["complete"] for r in [*done, *others])
            results = evaluation_result(shared, [*others, *done], complete=complete, command=command)
            write_json(folder.results, results)
        write_whole(folder.path / "results.md", results_markdown(results))
        write_plots(results, folder.path)
        if config.inspect is not None:
            learner = _learner(config)
            for run, result in zip(runs, done, strict=True):
                run.write_inspect(config.inspect, results, result, learner)
        return Evaluation(results, folder.path, fault)
    finally:
        if sampler is not None:
            sampler.close()
        for suite in suites.values():
            suite.env.close()


class _OpenSuite:
    """A suite with its environment.

    Args:
        suite: the suite.
        config: of the evaluation.
        codec: the policy's tokenizer; None where it plays over a chat.
        agents: in place of those of the configuration.
    """

    def __init__(
        self,
        suite: Suite,
        config: EvaluationConfig,
        codec: TransformersCodec | None,
        agents: Mapping[str, AgentLike] | None,
    ) -> None:
        named = config.servers.agents(config.agents) if agents is None else dict(agents)
        options: dict[str, Any] = {**suite.env_options, **_env_options(config, suite)}
        if config.prompt is not None:
            options["prompt"] = config.prompt
        elif "prompt" not in options and config.mode != "self-help":
            options.setdefault("solo_prompt", "plain")
        if config.mode == "self-help":
            options["solo"] = "self-help"
        if config.extraction != "boxed":
            options["extraction"] = config.extraction
        self.suite = suite
        self.env: ConsultEnv = metered(aipo_env.make(suite.env_id, codec=codec, agents=named, **options))
        warn_unreadable(codec, self.env)
        assert isinstance(self.env.game, MeteredGame)
        self.game: MeteredGame = self.env.game


class _Run:
    """One run of a suite, played into its file of traces.

    Args:
        suite: with its environment.
        assisted: whether helpers answer.
        context: tokens that the policy takes by its own account; None where it does not say.
        config: of the evaluation.
        folder: where it is kept.
    """

    def __init__(
        self, suite: _OpenSuite, assisted: bool, context: int | None, config: EvaluationConfig, folder: EvaluationFolder
    ) -> None:
        self._suite = suite
        self.plan = plan_run(config, suite.suite, suite.env.tasks, assisted=assisted, own_context=context)
        self._traces = folder.traces(self.plan.name)
        self._relative = str(self._traces.relative_to(folder.path))
        self.settings = run_settings(self.plan, suite.env, config)

    def play(self, sampler: TurnSampler, *, progress: bool) -> str:
        """Plays what is missing; returns why it ended before its end, or nothing."""
        finish = Finisher(self._suite.game, self.plan.suite.answers)
        with repeats_collapsed():
            try:
                sampler.play(self._suite.env, self.plan, self._traces, finish, progress=progress)
            except ServiceError as error:
                return f"{self.plan.name}: {error}"
        return ""

    def result(self, config: EvaluationConfig) -> dict[str, object]:
        """What the run's episodes say so far."""
        return run_result(
            RunEpisodes.read(self.plan, self._traces),
            self._suite.game,
            self.settings,
            traces=self._relative,
            ks=config.k,
        )

    def write_inspect(
        self, folder: Path, results: dict[str, Any], result: dict[str, Any], learner: TokenWeights | None
    ) -> None:
        """Writes the run as a log of Inspect."""
        from inspect_ai.log import write_eval_log

        from benchmarks.evaluation.inspect_log import inspect_log

        log = inspect_log(results, result, self.plan, self._suite.game, self._traces, learner)
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / f"{self.plan.name}.eval", lambda part: write_eval_log(log, part, format="eval"))


def _need_inspect() -> None:
    try:
        import inspect_ai.log  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "--inspect needs the package inspect-ai, which is not installed. Install it with: "
            f"{install_command('inspect')}"
        ) from error


def _learner(config: EvaluationConfig) -> TokenWeights | None:
    """How the run of `aipo train` whose policy is evaluated weighed tokens; None where nothing tells it."""
    from algorithms.token_weights import TokenWeights

    path = Path(config.policy).parent / CONFIG
    with contextlib.suppress(DataFormatError):  # of another version: then it is not known
        return TokenWeights.read(path) if config.server is None and path.is_file() else None
    return None


def _env_options(config: EvaluationConfig, suite: Suite) -> dict[str, Any]:
    """The environment's options for a suite: what the embedded policy needs, local data, and what the user set."""
    options: dict[str, Any] = {}
    if config.policy == "embedded" and not config.chat:
        # It reads bare problems and nothing else.
        options["prompt"] = "bare"
        if suite.name == "rulebook":
            options["style"] = "terse"
    for text in config.data:
        name, separator, path = text.partition("=")
        if not separator or name not in {*SUITES, *config.suites}:
            options.setdefault("data", text)
        elif name == suite.name:
            options["data"] = path
    of_suites: dict[str, Any] = {}
    for name, value in config.env_options.items():
        owner, dot, option = name.partition(".")
        if dot or owner in config.suites or (isinstance(value, Mapping) and name not in Options.__annotations__):
            of_suites.setdefault(owner, {}).update({option: value} if dot else value)
        else:
            options[name] = value
    if unknown := of_suites.keys() - set(config.suites):
        raise ConfigurationError(
            f"--env-options {min(unknown)}.{next(iter(of_suites[min(unknown)]))}: {min(unknown)!r} is not one of the suites "
            f"{', '.join(config.suites)}. Name an option, or suite.option."
        )
    return {**options, **of_suites.get(suite.name, {})}


def _other_runs(folder: EvaluationFolder, runs: list[_Run]) -> list[dict[str, object]]:
    """The runs of earlier commands in the same folder, as their results stand."""
    if not folder.results.exists():
        return []
    mine = {run.plan.name for run in runs}
    found: Any = read_json(folder.results)["runs"]
    return [run for run in found if f"{run['suite']}.{run['mode']}" not in mine]
