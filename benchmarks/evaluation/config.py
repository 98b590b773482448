"""What an evaluation can be told: plain data, importable without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from aipo_env.errors import ConfigurationError
from aipo_env.make_options import Options
from aipo_env.markup import Extraction
from aipo_env.parsing import TABLE
from algorithms.servers import Servers
from benchmarks.evaluation.suites import check_sampling, find_suite

Mode = Literal["solo", "assisted", "both", "self-help"]
Backend = Literal["transformers", "vllm"]


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """One evaluation: a policy on suites, alone, with help, or both. What is None is the suite's or the backend's default."""

    suite: str
    """The suites, with commas between: math500, aime24, aime25, aime26, hmmt-feb26, beyondaime,
    amc23, olympiadbench, minerva, gpqa-diamond, livecodebench, gsm8k, rulebook. Or training sets: 8 samples of their tasks."""
    policy: str = "embedded"
    """ "embedded", "smollm2", or a directory or hub id that transformers loads; with --server it names the tokenizer alone."""
    mode: Mode = "both"
    """ "solo": nobody answers; "assisted": the helpers do; "both": one run of each; "self-help": the policy asks, and
    writes the replies itself in the helpers' places. A further command with the same --out adds its run to the results."""
    out: Path | str = Path("runs/eval")
    """Folder of results.json, results.md, figures and traces; the same command goes on with what lies there."""
    inspect: Path | None = None
    """Folder for logs of Inspect (SUITE.MODE.eval), which `inspect view` opens; of a finished evaluation too."""
    samples: int | None = None
    """Samples of each task."""
    temperature: float | None = None
    """0 is greedy, with one sample."""
    top_p: float | None = None
    """Samples from the most likely tokens whose probabilities reach this sum; 1 from all."""
    max_tokens: int | None = None
    """Tokens behind the prompt, helpers' replies included."""
    context: int | None = None
    """Tokens that the model takes, prompt included; by default what a model of transformers says of itself."""
    seed: int = 0
    """Decides the sampling, the helpers' seeds and the resampling of the intervals."""
    num_tasks: int | None = None
    """The first tasks of each suite."""
    tasks: tuple[int, ...] = ()
    """The tasks with these indices, instead."""
    data: tuple[str, ...] = ()
    """Local data: PATH for all suites, or SUITE=PATH for one."""
    agents: tuple[str, ...] = ()
    """Helpers, each "name", "name=package.module:Class" or "name=path/to/policy"."""
    helper_server: str | None = None
    """Address of a server whose model plays those helpers that are given by name alone."""
    helper_model: str | None = None
    """The name under which it serves that model."""
    prompt: str | None = None
    """ "consult" invites to ask helpers, "plain" does not; or a text with {problem}, for both modes. By default alone it is
    "plain", as elsewhere, and with help "consult"."""
    extraction: Extraction = "boxed"
    r"""What is read as the answer: "boxed" takes `\boxed{}` and `<answer>` alone; "lenient" also `The answer is 5.`, `**5**`,
    `#### 5`, as other harnesses do."""
    env_options: Options = dataclasses.field(default_factory=Options)
    """Options of the environments, as `--env-options max_consults 2 rulebook.level 3`; with a suite's name before the dot, or
    under it as a table, for that suite alone."""
    k: tuple[int, ...] = ()
    """The k of pass@k, and the n of maj@n; by default powers of two up to the number of samples."""
    backend: Backend = "transformers"
    """What runs a policy that is loaded here."""
    device: str = "cpu"
    """A torch device, for transformers."""
    engine_args: Annotated[dict[str, int | float | bool | str], TABLE] = dataclasses.field(default_factory=dict)
    """With --backend vllm, arguments of vllm.AsyncEngineArgs, as `--engine-args tensor_parallel_size 2`."""
    server: str | None = None
    """Address of an OpenAI-compatible server that returns token ids (vLLM), such as http://localhost:8000/v1."""
    model: str | None = None
    """The name under which the server serves the policy."""
    chat: bool = False
    """With --server, plays over its chat, for servers without token ids; --max-tokens then limits each turn."""
    max_in_flight: int | None = None
    """Episodes that run at the same time (16; with vLLM or a server 256)."""
    timeout: float | None = None
    """Seconds for an episode."""
    retries: int | None = None
    """How often a server is sent again what failed in a way that may pass (4)."""
    requests_per_minute: float | None = None
    """Requests that a server is sent a minute, by policy and helpers together; no limit if left out."""

    def __post_init__(self) -> None:
        """Refuses what cannot work, and says what to change."""
        if not self.suites:
            raise ConfigurationError("--suite names at least one suite, such as math500 or math500,aime24.")
        if len(set(self.suites)) < len(self.suites):
            raise ConfigurationError(f"--suite names a suite twice: {self.suite}. Name each once.")
        for name in self.suites:
            check_sampling(name, self.samples_of(name), self.temperature_of(name))
        if self.num_tasks is not None and self.tasks:
            raise ConfigurationError(
                "--num-tasks takes the first tasks, --tasks takes those you name: give one of them."
            )
        if self.tasks and len(self.suites) > 1:
            raise ConfigurationError(
                f"--tasks are indices of one suite, and --suite names {len(self.suites)}. Run them apart."
            )
        self._check_numbers()
        self._check_backend()

    @property
    def suites(self) -> tuple[str, ...]:
        """The names of the suites."""
        return tuple(name.strip() for name in self.suite.split(",") if name.strip())

    @property
    def modes(self) -> tuple[bool, ...]:
        """Whether helpers answer, for each run of a suite."""
        return {"solo": (False,), "assisted": (True,), "both": (False, True), "self-help": (False,)}[self.mode]

    @property
    def local(self) -> bool:
        """Whether a model of `transformers` in this process is sampled."""
        return self.server is None and self.backend == "transformers"

    @property
    def servers(self) -> Servers:
        """The model servers, and how they are asked."""
        named = (self.server, self.model, self.helper_server, self.helper_model)
        return Servers(*named, self.retries, self.requests_per_minute)

    def temperature_of(self, suite: str) -> float:
        """The temperature at which a suite is sampled."""
        return find_suite(suite).temperature if self.temperature is None else self.temperature

    def samples_of(self, suite: str) -> int:
        """Samples of each task of a suite; a greedy policy that was asked for without a number takes one."""
        if self.samples is not None:
            return self.samples
        return 1 if self.temperature == 0 else find_suite(suite).num_samples

    def max_tokens_of(self, suite: str) -> int:
        """Tokens behind the prompt of an episode of a suite."""
        return find_suite(suite).max_tokens if self.max_tokens is None else self.max_tokens

    def _check_numbers(self) -> None:
        for name in ("samples", "max_tokens", "context", "num_tasks", "max_in_flight"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"--{name.replace('_', '-')} is a whole number of at least 1, got {value}.")
        if self.seed < 0 or min(self.tasks, default=0) < 0 or min(self.k, default=1) < 1:
            raise ConfigurationError(
                f"--seed and --tasks are not negative and --k is 1 or more; got {self.seed}, {self.tasks} and {self.k}."
            )
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ConfigurationError(f"--temperature is a number of at least 0 (0 is greedy), got {self.temperature}.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigurationError(f"--top-p is a probability above 0 and up to 1, got {self.top_p}.")
        for name in self.suites:
            if max(self.k, default=1) > (samples := self.samples_of(name)):
                raise ConfigurationError(
                    f"pass@{max(self.k)} needs at least {max(self.k)} samples of a task, and {name} has {samples}: raise "
                    "--samples, or lower --k."
                )

    def _check_backend(self) -> None:
        _ = self.servers
        if self.server is not None and self.backend != "transformers":
            raise ConfigurationError(
                "--server and --backend vllm exclude each other: a server runs the policy, or this process."
            )
        if self.chat and (self.server is None or self.policy != "embedded" or self.context is not None):
            raise ConfigurationError(
                "--chat is for --server, whose model has a tokenizer and a context of its own: give --server and --model, and "
                "leave out --policy and --context."
            )
        if self.chat and self.mode == "self-help":
            raise ConfigurationError(
                "--mode self-help continues a helper's message, which no chat can: leave out --chat."
            )
        here = "transformers"
        misplaced: dict[str, object]
        if self.local:
            misplaced = {"--engine-args": self.engine_args or None}
        else:
            here = "--server" if self.server is not None else "--backend vllm"
            misplaced = {
                "--device": None if self.device == "cpu" else self.device,
                "--engine-args": (self.engine_args or None) if self.server is not None else None,
            }
        if given := ", ".join(flag for flag, value in misplaced.items() if value is not None):
            raise ConfigurationError(f"{given} does nothing with {here}: leave it out.")
