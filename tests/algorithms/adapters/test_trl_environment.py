"""Helpers as tools: the class by itself, and in TRL's own tool loop, where a script stands for the sampling alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import get_json_schema

from aipo_env.errors import GradingError
from aipo_env.grading import Grade
from aipo_env.protocol import ConsultRequest, Reply
from aipo_env.registry import make_tasks
from aipo_env.tasks.base import Task
from algorithms.adapters.trl_environment import environment_factory, grade_answers, task_rows
from tests.algorithms.vocabularies import qwen

trl = pytest.importorskip("trl", reason="the tool loop is TRL's")
OPTIONS = {"level": 2, "operators": "@", "style": "terse", "agents": {"knowledge": lambda query: "a@b is 17"}}


def test_each_helper_is_a_tool_with_a_schema() -> None:
    tools = environment_factory("rulebook-consult", level=2)
    env = tools()
    assert [name for name in dir(tools) if not name.startswith("_")] == ["knowledge", "reasoning", "reset", "verify"]
    schema = get_json_schema(env.verify)["function"]  # type: ignore[attr-defined]
    assert schema["name"] == "verify"
    assert "checks a step" in schema["description"]
    assert list(schema["parameters"]["properties"]) == ["query"]


def test_a_task_is_asked_about_answered_and_graded() -> None:
    env = environment_factory("rulebook-consult", max_consults=1, consult_cost=0.25, **OPTIONS)()
    prompt = env.reset(7, prompt=[], other=1)
    task = env._game.task(7)
    assert task.problem in prompt
    assert "<consult" not in prompt
    assert env.knowledge("a@b?") == "a@b is 17"  # type: ignore[attr-defined]
    assert "consults" in env.knowledge("again?")  # type: ignore[attr-defined]
    graded = [grade_answers([[{"content": text}]], [env])[0] for text in (f"\\boxed{{{task.gold}}}", "\\boxed{x}", "")]
    assert graded == [0.75, -0.25, -0.25]
    env.reset(8)
    assert grade_answers([[{}]], [env]) == [0.0]


class Noting:
    """A helper that keeps the seeds of its requests, and has no answer."""

    name = "knowledge"

    def __init__(self) -> None:
        self.seeds: list[int] = []

    async def respond(self, request: ConsultRequest) -> Reply:
        self.seeds.append(request.seed)
        return Reply("half a repl", error="it is asleep")


def test_each_rollout_of_a_task_has_seeds_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeds(tasks: list[int]) -> list[int]:
        helper = Noting()
        factory = environment_factory("rulebook-consult", level=2, agents={"knowledge": helper})
        for task in tasks:
            env = factory()
            env.reset(task)
            assert env.knowledge("?") == "knowledge could not answer: it is asleep"  # type: ignore[attr-defined]
        return helper.seeds

    first = seeds([7, 8, 7, 8])
    assert len(set(first)) == 4
    assert seeds([8, 7, 7, 8]) == [first[1], first[0], first[2], first[3]]
    monkeypatch.setenv("RANK", "1")
    assert not set(seeds([7, 8, 7, 8])) & set(first)


def test_who_asks_when_the_episode_is_over_hears_that_it_is() -> None:
    env = environment_factory("rulebook-consult", max_turns=2, **OPTIONS)()
    env.reset(7)
    said = [env.knowledge(query) for query in ("first", "second", "third")]  # type: ignore[attr-defined]
    assert said[1:] == ["The episode is over: nobody can be asked any more. Give the final answer."] * 2


def test_a_grader_that_fails_costs_the_reward_alone() -> None:
    class Broken:
        name, num_tasks = "broken", None

        def __init__(self) -> None:
            self.task, self.sample_index = (family := make_tasks("rulebook")).task, family.sample_index

        def grade(self, task: Task, answer: str) -> Grade:
            raise GradingError(f"{answer} could not be compared with {task.gold}.")

    env = environment_factory("rulebook-consult", tasks=Broken())()
    env.reset(7)
    assert grade_answers([[{"content": "\\boxed{x}"}], [{}]], [env, env]) == [None, 0.0]


def test_in_trls_own_tool_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call is parsed, our helper asked, its reply masked, the last message graded: TRL's code, on Qwen's own template."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    tokenizer = qwen()
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=1024, tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    factory = environment_factory("rulebook-consult", **OPTIONS)
    gold = factory._game.task(7).gold
    args: dict[str, Any] = {
        "output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 4,
        "max_completion_length": 200, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
        "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": False, "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = trl.GRPOTrainer(
            model,
            grade_answers,
            trl.GRPOConfig(**args),
            trl.trainer.grpo_trainer.Dataset.from_list(task_rows([7] * 4)),
            processing_class=tokenizer,
            environment_factory=factory,
        )
        call = '<tool_call>\n{"name": "knowledge", "arguments": {"query": "rule?"}}\n</tool_call><|im_end|>'
        asks, says = (tokenizer(text)["input_ids"] for text in (call, f"\\boxed{{{gold}}}<|im_end|>"))
        contexts: list[list[int]] = []

        def written(prompts: list[list[int]], *args: Any, **options: Any) -> tuple[list[list[int]], None]:
            contexts.extend(prompts)
            return [list(says if "a@b is 17" in tokenizer.decode(ids[-40:]) else asks) for ids in prompts], None

        monkeypatch.setattr(trainer, "_generate_single_turn", written)
        reply = trainer._get_tool_suffix_ids([{"role": "tool", "name": "knowledge", "content": "a@b is 17"}])
        model.train()
        batch = trainer._generate_and_score_completions(task_rows([7] * 4))
        for row in range(4):
            ids = batch["completion_ids"][row][batch["completion_mask"][row] > 0].tolist()
            assert ids == asks + reply + says
            masked = batch["tool_mask"][row][: len(ids)].tolist()
            assert masked == [1] * len(asks) + [0] * len(reply) + [1] * len(says)
        assert factory._game.task(7).problem in tokenizer.decode(contexts[0])
        assert trainer._metrics["train"]["rewards/grade_answers/mean"] == [1.0]
        assert trainer._metrics["train"]["tools/call_frequency"] == [1.0]
        assert trainer._metrics["train"]["tools/failure_frequency"] == [0.0]
        trainer.train()
        assert trainer.state.global_step == 1
