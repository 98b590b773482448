"""Reasoning tasks as environments in which asking for help is an action.

import aipo_env
env = aipo_env.make("math500-consult")
"""

from aipo_env.consulting import as_agent
from aipo_env.episode import Episode, EpisodeConfig
from aipo_env.errors import AipoError, ServiceError
from aipo_env.gym_env import ConsultEnv, render_transcript
from aipo_env.protocol import (
    Agent,
    Answer,
    Consult,
    ConsultRequest,
    Malformed,
    Reply,
    TokenAction,
    TurnPolicy,
    TurnRequest,
    Usage,
)
from aipo_env.registry import EnvSpec, list_agents, list_envs, make, make_tasks, register_agent, register_env
from aipo_env.trajectory import Segment, Source, TraceWriter, Trajectory, read_traces, write_traces

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AipoError",
    "Answer",
    "Consult",
    "ConsultEnv",
    "ConsultRequest",
    "EnvSpec",
    "Episode",
    "EpisodeConfig",
    "Malformed",
    "Reply",
    "Segment",
    "ServiceError",
    "Source",
    "TokenAction",
    "TraceWriter",
    "Trajectory",
    "TurnPolicy",
    "TurnRequest",
    "Usage",
    "as_agent",
    "list_agents",
    "list_envs",
    "make",
    "make_tasks",
    "read_traces",
    "register_agent",
    "register_env",
    "render_transcript",
    "write_traces",
]
