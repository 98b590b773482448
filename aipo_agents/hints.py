"""Helpers that say what a task's own data let them say: points of knowledge, steps of a plan. Never the answer."""

from __future__ import annotations

from aipo_agents.request_key import RequestKey, key_digest
from aipo_env.protocol import ConsultRequest, Reply

NOTHING_LEFT = "I have nothing further on this problem."


class HintAgent:
    """Gives the hints that come with a task, one for each consult, in their order; the query does not matter.

    It gets them in `ConsultRequest.hints`, which the environment fills for helpers with `uses_hints` alone. The data set's
    family leaves out those that give the answer away (`aipo_env.tasks.questions.reveals`).

    Args:
        name: the name under which it is consulted; a data set keeps hints by helper.
        description: what it does, for the prompt.
    """

    uses_hints = True

    def __init__(self, name: str, description: str = "") -> None:
        self.name = name
        self.description = description or "gives a hint on the problem"

    async def respond(self, request: ConsultRequest) -> Reply:
        """The first hint that was not given yet."""
        return Reply(request.hints[0] if request.hints else NOTHING_LEFT)

    def request_key(self, request: ConsultRequest) -> RequestKey:
        """A reply depends on the hints that are left."""
        return RequestKey(key_digest("hints", self.name, request.hints), deterministic=True)


def knowledge_hints() -> HintAgent:
    """Knowledge that comes with the task."""
    return HintAgent("knowledge", "recalls a fact, a formula or a theorem that this problem needs")


def reasoning_hints() -> HintAgent:
    """Steps that come with the task."""
    return HintAgent("reasoning", "proposes the next step towards the solution of this problem")
