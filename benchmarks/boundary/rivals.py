"""The trainers of the rivals: what their batches are made of, and what they learn from them.

The teacher's solution is what a perfect policy would write alone: the question, the expansion, the boxed answer. Its
tokens are AGENT tokens with unknown mu, for nobody sampled them from the policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from aipo_env import TrainingSample, markup
from aipo_env.advantages import Floats
from aipo_env.rollout import EpisodeSeeds
from aipo_env.tasks.rulebook import evaluate_expansion, expand
from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms.trainer import Metrics, Trainer


class ImitationTrainer(Trainer):
    """Supervised fine-tuning on full solutions (SFT): every rollout of a batch is a demonstration of a task of its own.

    Use it with `agent_loss="clone"` and `agent_normalizer="agent_tokens"`: the loss is then the mean negative
    log-probability of the demonstrations' tokens. A step shows `prompts_per_step` x `samples_per_prompt` tasks.
    """

    teacher_noise: float = 0.0
    """How often the teacher writes random digits for the expansion (and answers accordingly)."""

    def collect(self) -> list[Trajectory]:
        """A batch of demonstrations."""
        rng = np.random.default_rng(self.sampling_seed(0))
        size = self.config.samples_per_prompt
        return [
            self._demonstrate(self.env.tasks.sample_index(rng), group, sample)
            for group in range(self.config.prompts_per_step)
            for sample in range(size)
        ]

    def _advantages(self, samples: Sequence[TrainingSample]) -> tuple[Floats, Floats]:
        ones_S = np.ones(len(samples), np.float32)  # imitation does not ask whether the teacher was right
        return ones_S, ones_S

    def _demonstrate(self, task_index: int, group: int, sample: int) -> Trajectory:
        seed = EpisodeSeeds(self.sampling_seed(0), task_index, sample, group).episode
        rng = np.random.default_rng(seed)
        forgotten = rng.random() < self.teacher_noise
        task = self.env.tasks.task(task_index)
        pieces = solution(str(task.metadata["expression"]), rng if forgotten else None)
        codec = self.policy.codec
        ids = [i for text in pieces for i in codec.encode_tag(text)] + sorted(codec.eos_ids)[:1]
        trajectory = self.env.make_episode(task_index, seed=seed, assisted=False).trajectory(group=group, sample=sample)
        answer = pieces[-2]
        grade = self.env.tasks.grade(task, answer)
        trajectory.segments.append(
            Segment(Source.AGENT, "".join(pieces), tuple(ids), (0.0,) * len(ids), agent="teacher")
        )
        trajectory.reward, trajectory.verdict = float(grade.correct), grade.verdict.value
        trajectory.stop_reason = "answer"
        return trajectory


class FilteredImitationTrainer(ImitationTrainer):
    """SFT on the solutions that the grader calls right (RFT, arXiv 2308.01825)."""

    def _advantages(self, samples: Sequence[TrainingSample]) -> tuple[Floats, Floats]:
        right_S = np.array([s.outcome > 0 for s in samples], np.float32)
        return right_S, right_S


class MixedGroupTrainer(ImitationTrainer):
    """LUFFY-style groups (arXiv 2504.14945): some rollouts of a group are the teacher's, the others the policy's own.

    Use it with `solo_share=1` and `agent_loss="luffy"`. A wrong solution earns what a wrong answer earns.
    """

    demonstrations_per_group: int = 1
    """Of `samples_per_prompt`; LUFFY takes one of eight."""

    def collect(self) -> list[Trajectory]:
        """A batch of rollouts, in which the last ones of each group are demonstrations."""
        size, tasks, seed = self.config.samples_per_prompt, self._tasks(0), self.sampling_seed(0)
        first = size - self.demonstrations_per_group
        own = self.sampler.rollout(self.env, tasks, group_size=first, seed=seed, solo_share=1.0)
        shown = [self._demonstrate(t, group, sample) for group, t in enumerate(tasks) for sample in range(first, size)]
        return sorted([*own, *shown], key=lambda t: (t.group, t.sample))

    def _advantages(self, samples: Sequence[TrainingSample]) -> tuple[Floats, Floats]:
        return Trainer._advantages(self, samples)


class EchoTrainer(Trainer):
    """Cross-entropy on all replies at a constant weight, whatever came of them (ECHO, arXiv 2605.24517).

    Use it with `agent_loss="clone"`.
    """

    def _advantages(self, samples: Sequence[TrainingSample]) -> tuple[Floats, Floats]:
        own_S, _ = super()._advantages(samples)
        return own_S, np.ones(len(samples), np.float32)


class FilteredTrainer(Trainer):
    """Imitation of every rollout that ended right, with help or alone, its replies included: no baseline, nothing negative."""

    def _advantages(self, samples: Sequence[TrainingSample]) -> tuple[Floats, Floats]:
        right_S = np.array([s.outcome > 0 for s in samples], np.float32)
        return right_S, right_S


class HintTrainer(Trainer):
    """Help where all solo rollouts of a group fail, and no trace of it in what is learnt (after Guide, arXiv 2506.13923).

    The policy's own tokens of those rollouts are learnt in the context without the replies; `rollout_clip` bounds the ratio of
    the two contexts. Use it with `agent_loss="mask"` and `policy_baseline="group"`.
    """

    def _rollout(self, attempt: int) -> list[Trajectory]:
        trajectories = super()._rollout(attempt)
        able = {t.group for t in trajectories if not t.assisted and t.reward > 0}
        hidden = []
        for t in trajectories:
            # Where the policy succeeds alone, what it did with help is left out, as a rollout that a fault cut is.
            kept = [s for s in t.segments if s.source in (Source.PROMPT, Source.POLICY)]
            if t.assisted and t.group in able:
                t = dataclasses.replace(t, stop_reason="error")
            hidden.append(dataclasses.replace(t, segments=kept) if t.assisted else t)
        return hidden


class SelfDistillationTrainer(Trainer):
    """The reply as context of a teacher, never as a target (SDPO, arXiv 2601.20802): KL(policy || policy that saw the reply).

    The rollouts are the policy's own, alone. The teacher is the policy itself, as it is, behind the question and the helper's
    reply to it; its divergence at the rollout's own tokens is descended apart from GRPO's loss, `updates_per_batch` times.
    Use it with `solo_share=1` and `agent_loss="mask"`.
    """

    teacher_noise: float = 0.0
    """How often the reply is wrong."""

    def update(self, trajectories: Sequence[Trajectory]) -> Metrics:
        """GRPO's updates, then those of the divergence."""
        metrics = super().update(trajectories)
        codec, rows = self.policy.codec, []
        rng = np.random.default_rng(self.sampling_seed(1))
        for t in trajectories:
            prompt = list(t.segments[0].token_ids)
            expression = str(self.env.tasks.task(t.task_index or 0).metadata["expression"])
            told = solution(expression, rng if rng.random() < self.teacher_noise else None)[:6]
            hint = [i for text in told for i in codec.encode_tag(text)]
            rows.append((prompt, hint, t.token_ids[len(prompt) :]))
        for _ in range(self.config.updates_per_batch):
            self.weights.zero_gradients()
            for start in range(0, len(rows), self.config.micro_batch_size):
                self._divergence(rows[start : start + self.config.micro_batch_size], len(rows)).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.weights.masters.values(), self.config.max_grad_norm)
            self.optimizer.step()
            self.weights.update()
            self.sampler.weights_changed()
        metrics["tokens/trained"] += sum(len(own) for *_, own in rows)
        return metrics

    def _divergence(self, rows: Sequence[tuple[list[int], list[int], list[int]]], count: int) -> torch.Tensor:
        """Its mean over the tokens of each rollout, divided by `count`."""
        student_NV = self._logprobs_of_own([(prompt, own) for prompt, _, own in rows])
        with torch.no_grad():
            teacher_NV = self._logprobs_of_own([(prompt + hint, own) for prompt, hint, own in rows])
        kl_N = functional.kl_div(teacher_NV, student_NV, log_target=True, reduction="none").sum(-1)
        lengths_N = torch.tensor([len(own) for *_, own in rows for _ in own], dtype=kl_N.dtype, device=kl_N.device)
        return (kl_N / lengths_N).sum() / count

    def _logprobs_of_own(self, rows: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
        """Log-probabilities of the whole vocabulary where a rollout's own tokens stand."""
        length = max(len(before) + len(own) for before, own in rows)
        padded = [[*before, *own, *[0] * (length - len(before) - len(own))] for before, own in rows]
        logits = self.model(input_ids=torch.tensor(padded, device=self.model.device)).logits
        places = [logits[i, len(before) - 1 : len(before) - 1 + len(own)] for i, (before, own) in enumerate(rows)]
        return functional.log_softmax(torch.cat(places), -1)


def solution(expression: str, rng: np.random.Generator | None = None) -> list[str]:
    """The full solution of `473@128` in the policy's own markup, tag by tag; the answer is the last piece but one.

    Args:
        expression: an application of a rulebook operator.
        rng: draws random digits in place of the expansion's, for a teacher who has forgotten the rule.
    """
    expansion = expand(expression)
    assert expansion is not None  # level 2 has single applications alone
    if rng is not None:
        expansion = "".join(str(rng.integers(10)) if char.isdigit() else char for char in expansion)
    return [
        markup.consult_open("knowledge"), expression, markup.CONSULT_CLOSE,
        markup.feedback_open("knowledge"), expansion, markup.FEEDBACK_CLOSE,
        markup.BOX_OPEN, evaluate_expansion(expansion), markup.BOX_CLOSE,
    ]  # fmt: skip
