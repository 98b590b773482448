"""Which time the run goes over its prompts, told to the executors: they get a prompt and its label from OpenRLHF, and no step.

Without it the helpers of a sample would have the same seeds in every epoch, and so, where a policy asks the same again, the
same luck. The number is worked out from how many prompts were drawn, which OpenRLHF keeps in its checkpoints: so a run that
goes on has the seeds of one that was not cut. (Read in OpenRLHF 0.11.2: every prompt that a run draws passes
`SamplesGenerator._dispatch_prompts_to_vllm` once.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sized
from typing import Any, Protocol, runtime_checkable

from algorithms.cluster.prompts import PromptLabel


@runtime_checkable
class SamplesGenerator(Protocol):
    """What is used of OpenRLHF's `SamplesGenerator`."""

    prompts_dataloader: Sized
    _dispatch_prompts_to_vllm: Callable[..., list[Any]]


class Epochs:
    """Writes the epoch into the labels of the prompts that a generator draws for training.

    Args:
        generator: OpenRLHF's `SamplesGenerator`, before it has drawn anything.
    """

    def __init__(self, generator: SamplesGenerator) -> None:
        self.consumed = 0
        """Prompts that the run has drawn so far; set it from the checkpoint of a run that goes on."""
        self._size = max(1, len(generator.prompts_dataloader))
        self._dispatch = generator._dispatch_prompts_to_vllm
        generator._dispatch_prompts_to_vllm = self._dispatch_with_epochs

    def _dispatch_with_epochs(self, prompts: list[str], labels: list[str], **settings: object) -> list[Any]:
        return self._dispatch(prompts, [self._labelled(label) for label in labels], **settings)

    def _labelled(self, label: str) -> str:
        which = PromptLabel.from_text(label)
        if which.evaluation:
            return label
        epoch, self.consumed = self.consumed // self._size, self.consumed + 1
        return dataclasses.replace(which, epoch=epoch).to_text()
