"""A scripted policy behind a real server: byte-level tokens, and replies that a test decides, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aipo_env.rollout import EpisodeSeeds
from algorithms.codec import TransformersCodec
from tests.misbehaving_server import MisbehavingServer, Request

END = "<|end|>"

Script = Callable[[str, int, int], str]
"""Prompt, sample and turn to what the policy says."""


def save_byte_tokenizer(folder: Path) -> Path:
    """A tokenizer with a token for each byte, so that every text has ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)
    return folder


class ScriptedPolicy(MisbehavingServer):
    """Says what a script decides for the sample and the turn that a request belongs to.

    Args:
        tokenizer: folder of its tokenizer.
        script: what it says.
        tasks: so many tasks are known; a request's seed tells its task, sample and turn.
        samples: of each task.
        seed: of the run.
        helper: what it says as a helper.
    """

    def __init__(
        self, tokenizer: Path, script: Script, *, tasks: int = 8, samples: int = 8, seed: int = 0, helper: str = "Yes."
    ) -> None:
        from algorithms.rollout_command import load_codec

        super().__init__(reply=lambda request: helper)
        self.codec: TransformersCodec = load_codec(str(tokenizer))
        self._says = script
        self._places: Mapping[int, tuple[int, int]] = {
            EpisodeSeeds(seed, index, sample).turn(turn): (sample, turn)
            for index in range(tasks)
            for sample in range(samples)
            for turn in range(9)
        }

    def _answer(self, request: Request) -> dict[str, Any]:
        answer, body = super()._answer(request), request.body
        if request.is_chat and body["model"] == "scripted":
            said = self._says("".join(message["content"] for message in body["messages"]), *self._places[body["seed"]])
            answer["choices"] = [{"index": 0, "message": {"content": said}, "finish_reason": "stop"}]
        if request.is_chat:
            return answer
        text = self._says(self.codec.decode(body["prompt"]), *self._places[body["seed"]])
        ends = [text.find(stop) + len(stop) for stop in body.get("stop") or [] if stop in text]
        ids = self.codec.encode_tag(text[: min(ends)]) if ends else [*self.codec.encode_tag(text), *self.codec.eos_ids]
        cut = len(ids) > body["max_tokens"]
        ids = ids[: body["max_tokens"]]
        choice = {"index": 0, "text": self.codec.decode(ids), "token_ids": ids, "prompt_token_ids": body["prompt"]}
        ended = {"finish_reason": "length" if cut else "stop", "stop_reason": "</consult>" if ends else None}
        answer["choices"] = [{**choice, **ended, "logprobs": None}]
        return answer
