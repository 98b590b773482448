"""A `Trajectory` as the answer that OpenRLHF expects of an agent executor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from aipo_env import markup, trace_files
from aipo_env.leaks import HELD_BACK
from aipo_env.trajectory import Segment, Source, Trajectory
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
    if trajectory.stop_reason in trace_files.FAULTS:
        # The reward says nothing of what was written: the prompt alone is kept, which bears no loss.
        max_length = min(max_length, len(trajectory.segments[0].token_ids))
    segments = cut(trajectory.segments, max_length)
    kept = dataclasses.replace(trajectory, segments=segments)
    correct = float(trajectory.verdict == "correct")
    return {
        "prompt": trajectory.segments[0].text,
        "label": label,
        "images": None,
        "mm_train_inputs": None,
        "observation_tokens": kept.token_ids,
        "action_ranges": action_ranges(kept),
        "rollout_log_probs": encode(kept),
        "reward": float(trajectory.reward),
        # Dynamic filtering asks how often a group succeeded, whatever the reward adds to that.
        "scores": correct,
        "truncated": trajectory.stop_reason in _TRUNCATIONS,
        "extra_logs": counters(trajectory, kept),
    }


def cut(segments: Sequence[Segment], max_length: int) -> list[Segment]:
    """The segments up to `max_length` tokens; the one that crosses it keeps its text and loses ids."""
    kept: list[Segment] = []
    left = max_length
    for segment in segments:
        count = len(segment.token_ids)
        if count > left:
            segment = dataclasses.replace(segment, token_ids=segment.token_ids[:left], logprobs=segment.logprobs[:left])
        kept.append(segment)
        left = max(0, left - count)
    return kept


def counters(trajectory: Trajectory, kept: Trajectory) -> dict[str, float]:
    """One number per metric and sample; OpenRLHF logs their means over all samples of a step.

    Every sample has every key, since OpenRLHF merges samples key by key. Means over one kind of sample are quotients: the
    accuracy of the solo rollouts is `aipo/solo_correct` / `aipo/solo`.

    Args:
        trajectory: the whole episode.
        kept: the part that is learnt from.
    """
    notices = [s for s in trajectory.segments if s.source is Source.TEMPLATE]
    policy, agent = kept.count(Source.POLICY), kept.count(Source.AGENT)
    known = sum(len(s.token_ids) for s in kept.segments if s.source is Source.AGENT and s.mu_known)
    solo, correct = float(not trajectory.assisted), float(trajectory.verdict == "correct")
    return {
        SOLO: solo,
        OUTCOME: float(trajectory.outcome),
        FAULTS: float(trajectory.stop_reason in trace_files.FAULTS),
        "aipo/solo_correct": solo * correct,
        "aipo/assisted_correct": (1.0 - solo) * correct,
        "aipo/consults": float(trajectory.num_consults),
        "aipo/helper_errors": float(sum(bool(s.agent) and "could not answer" in s.text for s in notices)),
        "aipo/held_back": float(sum(bool(s.agent) and HELD_BACK in s.text for s in notices)),
        "aipo/malformed_turns": float(sum(not s.agent and s.text.startswith(markup.NOTICE_OPEN) for s in notices)),
        "aipo/truncated": float(trajectory.stop_reason in _TRUNCATIONS),
        "aipo/cut_tokens": float(len(trajectory.token_ids) - len(kept.token_ids)),
        "aipo/agent_tokens": float(agent),
        "aipo/agent_token_share": agent / max(agent + policy, 1),
        "aipo/mu_known_share": known / max(agent, 1),
    }
