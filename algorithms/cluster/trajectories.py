"""A `Trajectory` as the answer that OpenRLHF expects of an agent executor."""

from __future__ import annotations

from aipo_env import markup
from aipo_env.leaks import HELD_BACK
from aipo_env.training_sample import TrainingSample, to_training_sample
from aipo_env.trajectory import Source, Trajectory
from algorithms.cluster.channel import action_ranges, encode

SOLO, OUTCOME, FAULTS = "aipo/solo", "aipo/outcome", "aipo/faults"
"""The counters that the baselines read (`algorithms/cluster/baselines.py`): whether a sample was played without help, its
reward without what help cost, and whether a fault of a service or the grader cut it."""

_TRUNCATIONS = ("length", "max_turns", "max_chars")


def to_response(trajectory: Trajectory, max_length: int, *, label: str) -> dict[str, object]:
    """What `AgentExecutorBase.execute` returns for a trajectory (read in OpenRLHF 0.11.2, `utils/agent.py`).

    Args:
        trajectory: a finished episode.
        max_length: tokens of the context; what lies behind it, the end of a helper's reply, is cut off.
        label: OpenRLHF's label of the prompt, handed back unchanged.
    """
    sample = to_training_sample(trajectory, max_length)
    return {
        "prompt": trajectory.segments[0].text,
        "label": label,
        "images": None,
        "mm_train_inputs": None,
        "observation_tokens": sample.token_ids.tolist(),
        "action_ranges": action_ranges(sample),
        "rollout_log_probs": encode(sample),
        "reward": sample.reward,
        # Dynamic filtering asks how often a group succeeded, whatever the reward adds to that.
        "scores": float(trajectory.verdict == "correct"),
        "truncated": trajectory.stop_reason in _TRUNCATIONS,
        "extra_logs": counters(trajectory, sample),
    }


def counters(trajectory: Trajectory, sample: TrainingSample) -> dict[str, float]:
    """One number per metric and sample; OpenRLHF logs their means over all samples of a step.

    Every sample has every key, since OpenRLHF merges samples key by key. Means over one kind of sample are quotients: the
    accuracy of the solo rollouts is `aipo/solo_correct` / `aipo/solo`.

    Args:
        trajectory: the whole episode.
        sample: what is learnt from it.
    """
    notices = [s for s in trajectory.segments if s.source is Source.TEMPLATE]
    policy, agent = sample.policy_tokens, sample.count(Source.AGENT)
    solo, correct = float(sample.solo), float(trajectory.verdict == "correct")
    return {
        SOLO: solo,
        OUTCOME: sample.outcome,
        FAULTS: float(sample.faulted),
        "aipo/solo_correct": solo * correct,
        "aipo/self_help": float(trajectory.self_help),
        "aipo/self_help_correct": float(trajectory.self_help) * correct,
        "aipo/assisted_correct": (1.0 - solo) * correct,
        "aipo/consults": float(trajectory.num_consults),
        "aipo/helper_errors": float(sum(bool(s.agent) and "could not answer" in s.text for s in notices)),
        "aipo/held_back": float(sum(bool(s.agent) and HELD_BACK in s.text for s in notices)),
        "aipo/malformed_turns": float(sum(not s.agent and s.text.startswith(markup.NOTICE_OPEN) for s in notices)),
        "aipo/truncated": float(trajectory.stop_reason in _TRUNCATIONS),
        "aipo/cut_tokens": float(len(trajectory.token_ids) - len(sample.token_ids)),
        "aipo/agent_tokens": float(agent),
        "aipo/agent_token_share": agent / max(agent + policy, 1),
        "aipo/mu_known_share": float(sample.mu_known.sum()) / max(agent, 1),
    }
