"""What the trainer does with an engine, without vLLM: a second copy of the model in `transformers` stands for it.

vLLM itself, and each of its silent faults, is in tests/integration_vllm/test_trainer.py (`make test-vllm`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from aipo_agents.backends import CompletionSampling, Generation, TrainableServer, TransformersModel, VLLMInProcess
from aipo_env.errors import ConfigurationError, ServiceError
from algorithms import vllm_sampler
from algorithms.config import ObjectiveConfig
from algorithms.memory_plan import memory
from algorithms.policies.adapters import add_adapter
from algorithms.train_config import LoraConfig, SamplingConfig, TrainConfig
from algorithms.trainer import Trainer
from algorithms.vllm_sampler import VLLMSampler, mismatch_bound
from tests.algorithms.test_memory_plan import RUN, SUBJECT
from tests.algorithms.tiny import tiny_policy


class Copy(VLLMInProcess):
    """An engine whose weights are a copy of those that it is given."""

    def __init__(self, model: str, *, name: str | None = None, **engine_args: Any) -> None:
        self.model, self.args, self.calls = str(name), engine_args, list[str]()
        self.copied = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).eval()
        tokenizer = AutoTokenizer.from_pretrained(model)
        self.backend = TransformersModel(self.copied, tokenizer, eos_ids={tokenizer.eos_token_id}, max_batch=64)

    async def complete(self, token_ids: Sequence[int], sampling: CompletionSampling) -> Generation:
        return await self.backend.complete(token_ids, sampling)

    @property
    def context_length(self) -> int:
        return self.backend.context_length

    def load_weights(self, named: Any) -> None:
        self.calls.append("weights")
        self.copied.load_state_dict(dict(named), strict=False)
        self.backend.forget()

    def load_adapter(self, folder: Path) -> None:
        self.calls.append("adapter")
        import peft

        found = load_file(folder / "adapter_model.safetensors")
        if not getattr(self.copied, "_hf_peft_config_loaded", False):
            self.copied.add_adapter(peft.LoraConfig.from_pretrained(folder))
        peft.set_peft_model_state_dict(
            self.copied, {k.removeprefix("base_model.model."): w for k, w in found.items()}, "default"
        )
        self.backend.forget()

    def sleep(self, level: int) -> None:
        self.calls.append(f"sleep {level}")

    def wake_up(self, *tags: str) -> None:
        self.calls.append(f"wake {' '.join(tags)}")

    def check(self) -> None:
        self.calls.append("check")

    async def aclose(self) -> None:
        self.calls.append("close")


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_sampler, "VLLMInProcess", Copy)


def trainer(out: Path, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "env_options": {"style": "terse", "prompt": "bare"}, "prompts_per_step": 2, "samples_per_prompt": 4, "steps": 2,
        "sampling": SamplingConfig(max_tokens=24, batch_size=8), "sampler": "vllm", "learning_rate": 1e-2, "warmup_steps": 0,
        "eval_tasks": 2, "eval_samples": 1,
    }  # fmt: skip
    return Trainer(TrainConfig(out=out, **settings | options), policy=tiny_policy("llama"))


def step(one: Trainer) -> None:
    one.update([dataclasses.replace(t, reward=float(t.sample % 2)) for t in one.collect()])
    one.step += 1


def calls(one: Trainer) -> list[str]:
    """What the engine was told since it was last asked."""
    assert isinstance(one.sampler, VLLMSampler)
    engine = one.sampler.engine
    assert isinstance(engine, Copy)
    told, engine.calls = engine.calls, []
    return told


def test_the_engine_gets_the_weights_when_they_have_changed(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    one.collect()
    assert calls(one) == ["weights", "check"]
    one.collect()
    assert calls(one) == ["check"]
    step(one)
    one.collect()
    assert calls(one) == ["check", "weights", "check"]
    one.load_state(one.state())
    one.collect()
    assert calls(one) == ["weights", "check"]
    assert isinstance(one.sampler, VLLMSampler)
    engine = one.sampler.engine
    one.close()
    one.close()
    assert isinstance(engine, Copy)
    assert engine.calls == ["close"]
    # Whoever goes on gets another one, with the weights.
    one.collect()
    assert one.sampler.engine is not engine
    assert calls(one) == ["weights", "check"]


def test_the_engine_sleeps_while_the_learner_learns(tmp_path: Path) -> None:
    one = trainer(tmp_path, engine_args={"enable_sleep_mode": True})
    one.collect()
    assert calls(one) == ["weights", "check", "sleep 2"]
    # What level 2 drops is brought back, changed or not; the cache takes its memory behind that.
    one.collect()
    assert calls(one) == ["wake weights", "weights", "wake kv_cache", "check", "sleep 2"]


def test_adapters_travel_alone_and_the_weights_below_stay(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    one = trainer(tmp_path, lora=LoraConfig(rank=3), engine_args={"enable_sleep_mode": True})
    one.collect()
    assert calls(one) == ["weights", "adapter", "check", "sleep 1"]
    one.collect()
    assert calls(one) == ["wake weights", "wake kv_cache", "check", "sleep 1"]
    step(one)
    calls(one)
    one.collect()
    assert calls(one) == ["wake weights", "wake kv_cache", "adapter", "check", "sleep 1"]
    assert isinstance(one.sampler, VLLMSampler)
    assert isinstance(one.sampler.engine, Copy)
    args = one.sampler.engine.args
    assert (args["enable_lora"], args["max_loras"], args["max_lora_rank"]) == (True, 1, 8)
    assert (args["dtype"], args["load_format"], args["max_num_seqs"]) == ("float32", "dummy", 8)


def test_a_step_is_that_of_the_local_sampler(tmp_path: Path) -> None:
    sampling = {"sampling": SamplingConfig(temperature=0.7, max_tokens=24, batch_size=8)}
    ours, theirs = trainer(tmp_path / "a", sampler="local", **sampling), trainer(tmp_path / "b", **sampling)
    found = [one.collect() for one in (ours, theirs)]
    ids = [[[s.token_ids for s in t.segments] for t in part] for part in found]
    assert ids[0] == ids[1]
    rewarded = [[dataclasses.replace(t, reward=float(t.sample % 2)) for t in part] for part in found]
    mine, other = ours.update(rewarded[0]), theirs.update(rewarded[1])
    for name in ("loss/policy", "grad_norm", "tokens/trained"):
        assert other[name] == pytest.approx(mine[name], rel=1e-3), name
    assert other["policy/rollout_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert ours.objective.rollout_clip is theirs.config.objective.rollout_clip is None
    assert theirs.objective.rollout_clip == (0.0, 2.0)
    own = ObjectiveConfig(rollout_clip=(0.5, 1.5))
    assert trainer(tmp_path / "c", objective=own).objective.rollout_clip == (0.5, 1.5)


@pytest.mark.parametrize("broken", ["load_weights", "load_adapter"])
def test_an_engine_that_keeps_old_weights_stops_the_run(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = LoraConfig(rank=2) if broken == "load_adapter" else LoraConfig()
    one = trainer(tmp_path, lora=lora)
    step(one)
    before = {name: weight.clone() for name, weight in one.weights.state().items()}
    monkeypatch.setattr(Copy, broken, lambda self, what: None)
    for _ in range(2):  # nor is it taken for well the second time
        with pytest.raises(ServiceError, match="not those of the policy in training"):
            one.train_step()
    assert all(torch.equal(weight, before[name]) for name, weight in one.weights.state().items())


def test_bounds_of_the_probe(tmp_path: Path) -> None:
    """A little more than rounding is too much in fp32."""
    one = trainer(tmp_path)
    one.collect()
    sampler = one.sampler
    assert isinstance(sampler, VLLMSampler)
    assert sampler.mismatch < 1e-5
    assert isinstance(sampler.engine, Copy)
    for share, passes in ((1.0001, True), (1.05, False)):
        sampler.engine.copied.load_state_dict({n: share * w for n, w in one.model.state_dict().items()})
        sampler.engine.backend.forget()
        if passes:
            sampler.probe()
        else:
            with pytest.raises(ServiceError, match=r"differ by [0-9.]+ nats on average, where 0\.0001 is"):
                sampler.probe()


def test_how_much_rounding_passes() -> None:
    """At the first sync at most so much; later, that it has not grown by more than ten times, or above what is little."""
    found = [mismatch_bound(torch.float32, first) for first in (0.0, 1e-6, 5e-5, 9e-4)]
    assert found == pytest.approx([1e-3, 1e-4, 5e-4, 1e-3])
    found = [mismatch_bound(torch.bfloat16, first) for first in (0.0, 1e-4, 0.005, 0.09)]
    assert found == pytest.approx([0.1, 0.02, 0.05, 0.1])


def test_what_the_engine_is_told(tmp_path: Path) -> None:
    one = trainer(tmp_path, engine_args={"max_model_len": 99, "kv_cache_memory_bytes": 7})
    assert isinstance(one.sampler, VLLMSampler)
    assert isinstance(one.sampler.engine, Copy)
    assert one.sampler.engine.args == {
        "dtype": "float32", "load_format": "dummy", "max_num_seqs": 8, "enforce_eager": True, "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": 7, "max_model_len": 99,
    }  # fmt: skip
    assert one.sampler._policy.context_length == one.sampler.engine.context_length
    metrics, _ = one.train_step()
    assert metrics["sampler/mismatch"] < 1e-5


def test_a_run_goes_on_with_another_sampler(tmp_path: Path) -> None:
    """As the message of a probe that fails says, and as on a machine with another server."""
    trainer(tmp_path, steps=1).train(trackers=())
    for sampler in ("local", "http://127.0.0.1:9/v1"):
        with contextlib.suppress(ServiceError):
            trainer(tmp_path, steps=1, sampler=sampler).train(trackers=())
    again = trainer(tmp_path, sampler="local")
    again.train(trackers=())
    assert again.finished
    assert again.step == 2


def test_names_of_weights(tmp_path: Path) -> None:
    policy = tiny_policy("llama")
    plain = set(vllm_sampler._named_weights(policy.model))
    assert plain == set(policy.model.state_dict())
    pytest.importorskip("peft")
    add_adapter(policy, LoraConfig(rank=2), seed=0)
    assert set(vllm_sampler._named_weights(policy.model)) == plain
    # As a checkpoint calls them, where `transformers` calls them otherwise.
    assert "embed_out.weight" in vllm_sampler._named_weights(tiny_policy("gpt_neox").model)


def test_what_a_configuration_says_of_samplers() -> None:
    with pytest.raises(ConfigurationError, match=r"sampler is \"local\", \"vllm\" or the address .* got 'vlm'"):
        TrainConfig(sampler="vlm")
    with pytest.raises(ConfigurationError, match="sampler is an address such as"):
        TrainConfig(sampler="ftp://here")
    with pytest.raises(ConfigurationError, match=r"engine_args are for sampler=\"vllm\", and it is 'local'"):
        TrainConfig(engine_args={"max_model_len": 8})
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES=1 and device"):
        TrainConfig(sampler="vllm", device="cuda:1")
    for name in ("model", "name"):
        with pytest.raises(ConfigurationError, match=f"engine_args may not hold {name}"):
            TrainConfig(sampler="vllm", engine_args={name: "x"})
    assert TrainConfig(sampler="http://localhost:8000/v1", device="cuda:1").engine_args == {}


def test_the_plan_counts_the_engine() -> None:
    local, engine = memory(RUN, SUBJECT), memory(dataclasses.replace(RUN, sampler="vllm"), SUBJECT)
    assert engine["update"] == local["update"]
    assert engine["rollout"]["engine"] == pytest.approx(local["rollout"]["weights"])
    assert engine["rollout"]["cache"] == pytest.approx(local["rollout"]["cache"] / 2)
    awake = memory(dataclasses.replace(RUN, sampler="vllm", engine_args={"enable_sleep_mode": False}), SUBJECT)
    assert awake["rollout"] == engine["rollout"]
    assert awake["update"] == local["update"] | {name: engine["rollout"][name] for name in ("cache", "engine")}
    server = memory(dataclasses.replace(RUN, sampler="http://there:8000/v1"), SUBJECT)
    assert server["update"] == local["update"]
    assert server["rollout"].keys() == local["rollout"].keys() - {"cache", "head"}


# -- a server ----------------------------------------------------------------------------------------------------------


class Served(http.server.ThreadingHTTPServer):
    """Answers as `answers` has it, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, Any]] = []
        self.files: list[list[str]] = []
        model = {"id": "m", "max_model_len": 77}
        self.answers: dict[str, tuple[int, str]] = {
            "/v1/models": (200, json.dumps({"data": [model, {"id": "old", "parent": "m"}]})),
            "/collective_rpc": (200, json.dumps({"results": [None]})),
            "/reset_prefix_cache": (200, json.dumps({"success": True})),
            "/v1/load_lora_adapter": (200, "Success"),
            "/health": (200, ""),
        }


class Handler(http.server.BaseHTTPRequestHandler):
    server: Served

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = json.loads(body) if body else None
        self.server.asked.append((self.path, asked))
        if self.path == "/collective_rpc":
            folder = Path(asked["kwargs"]["weights_path"])
            self.server.files.append([f.name for f in folder.iterdir()])
            self.server.asked[-1] = (
                self.path,
                {k: tuple(w.shape) for k, w in load_file(next(folder.iterdir())).items()},
            )
        status, text = self.server.answers.get(self.path, (404, "no such path"))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", text)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def client(served: Served, folder: Path) -> TrainableServer:
    return TrainableServer(f"http://127.0.0.1:{served.server_port}/v1", folder)


def test_a_server_is_told_of_weights_by_files_that_do_not_stay(served: Served, tmp_path: Path) -> None:
    one = client(served, tmp_path / "out")
    assert (one.model, one.context_length) == ("m", 77)
    tied = torch.zeros(4, 2)
    one.load_weights([("embed.weight", tied), ("lm_head.weight", tied)])
    assert served.asked[1:] == [
        ("/collective_rpc", {"embed.weight": (4, 2), "lm_head.weight": (4, 2)}),
        ("/reset_prefix_cache", None),
    ]
    assert served.files == [["model.safetensors"]]
    assert list((tmp_path / "out").iterdir()) == []
    one.load_adapter(tmp_path)
    adapter = {"lora_name": "aipo-policy", "lora_path": str(tmp_path.resolve()), "load_inplace": True}
    assert served.asked[-2:] == [("/v1/load_lora_adapter", adapter), ("/reset_prefix_cache", None)]
    # Further requests are for the adapter.
    assert one.model == "aipo-policy"
    one.check()


@pytest.mark.parametrize(
    ("path", "answer", "says"),
    [
        ("/reset_prefix_cache", (200, '{"success": false}'), "kept what it had computed with old weights"),
        ("/collective_rpc", (500, "no memory"), r"/collective_rpc answered 500: no memory\.$"),
        ("/collective_rpc", (404, "Not Found"), "must be started with VLLM_SERVER_DEV_MODE=1"),
        ("/health", (503, "dead"), "/health answered 503"),
    ],
)
def test_what_a_server_may_answer(
    path: str, answer: tuple[int, str], says: str, served: Served, tmp_path: Path
) -> None:
    one = client(served, tmp_path)
    served.answers[path] = answer
    ask = one.check if path == "/health" else lambda: one.load_weights([("w", torch.zeros(1))])
    with pytest.raises(ServiceError, match=says) as raised:
        ask()
    assert not raised.value.transient
    assert list(tmp_path.iterdir()) == []


def test_servers_that_are_none(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key-of-mine")
    served.answers["/v1/models"] = (401, "wrong key a-secret-key-of-mine")
    with pytest.raises(ServiceError, match="answered 401") as raised:
        client(served, tmp_path)
    assert "secret" not in str(raised.value)
    served.answers["/v1/models"] = (200, json.dumps({"data": [{"id": "a"}, {"id": "b"}]}))
    with pytest.raises(ConfigurationError, match=r"must be a vLLM server with one model.* it serves 0"):
        client(served, tmp_path)
    served.answers["/v1/models"] = (200, json.dumps({"data": [{"id": k, "max_model_len": 8} for k in "ab"]}))
    with pytest.raises(ConfigurationError, match=r"it serves 2"):
        client(served, tmp_path)
    for other in ("hello", "[]", '{"detail": 1}'):
        served.answers["/v1/models"] = (200, other)
        with pytest.raises(ConfigurationError, match=r"it serves 0"):
            client(served, tmp_path)
    # A key is for the address that was named, and for no other that this one names.
    served.answers["/v1/models"] = (302, f"http://localhost:{served.server_port}/elsewhere")
    with pytest.raises(ServiceError, match="answered 302"):
        client(served, tmp_path)
    assert "/elsewhere" not in [path for path, _ in served.asked]
    with pytest.raises(ServiceError, match="cannot be reached"):
        TrainableServer("http://127.0.0.1:9/v1", tmp_path)
