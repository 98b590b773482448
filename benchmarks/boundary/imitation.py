"""Learning from full solutions: the two baselines that need a teacher who can solve the whole task.

The teacher's solution is what a perfect policy would write alone: the question, the expansion, the boxed answer. Its
tokens are AGENT tokens with unknown mu, for nobody sampled them from the policy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aipo_env import TrainingSample, markup
from aipo_env.advantages import Floats
from aipo_env.rollout import EpisodeSeeds
from aipo_env.tasks.rulebook import evaluate_expansion, expand
from aipo_env.trajectory import Segment, Source, Trajectory
from algorithms.trainer import Trainer


class ImitationTrainer(Trainer):
    """Supervised fine-tuning on full solutions: every rollout of a batch is a demonstration of a task of its own.

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
