"""Reasoning tasks as Gymnasium and PettingZoo environments in which asking helpers is an action.

    env = aipo_env.make("rulebook-consult")
    observation, info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step('<consult agent="verify">17+25=43</consult>')

Ten names to begin with:

    make, make_aec, make_parallel, make_vec   an environment by its id, as Gymnasium, PettingZoo or many at once have it
    pprint_registry                           prints the ids
    rollout                                   plays episodes with a policy, in the order in which they end
    register_env, register_agent              tasks and helpers of your own
    Consult, Reply                            what the policy asks a helper, and what that answers

Tasks, rewards and rules are options of `make`; `aipo --help` is the command line, and `algorithms` the learner.
"""

from aipo_env.advantages import sample_advantages
from aipo_env.aec_env import AECConsultEnv
from aipo_env.consulting import as_agent
from aipo_env.episode import Episode, EpisodeConfig
from aipo_env.errors import AipoError, ServiceError
from aipo_env.gym_env import ConsultEnv, render_transcript
from aipo_env.parallel_env import ParallelConsultEnv
from aipo_env.protocol import (
    Agent,
    Answer,
    Consult,
    ConsultRequest,
    Malformed,
    Reply,
    TextAction,
    TokenAction,
    TurnPolicy,
    TurnRequest,
    Usage,
)
from aipo_env.registry import (
    EnvSpec,
    list_agents,
    list_envs,
    make,
    make_aec,
    make_parallel,
    make_tasks,
    make_vec,
    pprint_registry,
    register_agent,
    register_env,
)
from aipo_env.replay import Mismatch, Replay, replay
from aipo_env.rollout import Rollouts, collect_rollouts, rollout
from aipo_env.training_sample import TrainingSample, to_training_sample
from aipo_env.training_split import require_training_split
from aipo_env.trajectory import Segment, Source, TraceWriter, Trajectory, read_traces, write_traces
from aipo_env.vector_env import ConsultVectorEnv

__version__ = "0.1.0"

__all__ = [
    "AECConsultEnv",
    "Agent",
    "AipoError",
    "Answer",
    "Consult",
    "ConsultEnv",
    "ConsultRequest",
    "ConsultVectorEnv",
    "EnvSpec",
    "Episode",
    "EpisodeConfig",
    "Malformed",
    "Mismatch",
    "ParallelConsultEnv",
    "Replay",
    "Reply",
    "Rollouts",
    "Segment",
    "ServiceError",
    "Source",
    "TextAction",
    "TokenAction",
    "TraceWriter",
    "TrainingSample",
    "Trajectory",
    "TurnPolicy",
    "TurnRequest",
    "Usage",
    "as_agent",
    "collect_rollouts",
    "list_agents",
    "list_envs",
    "make",
    "make_aec",
    "make_parallel",
    "make_tasks",
    "make_vec",
    "pprint_registry",
    "read_traces",
    "register_agent",
    "register_env",
    "render_transcript",
    "replay",
    "require_training_split",
    "rollout",
    "sample_advantages",
    "to_training_sample",
    "write_traces",
]
