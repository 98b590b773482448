"""What is left of a request's time."""

from __future__ import annotations

import dataclasses
import time

from aipo_env.protocol import ConsultRequest


def after_waiting(request: ConsultRequest, since: float) -> ConsultRequest:
    """The request as it stands now: its deadline counts from the call, so what was waited for is taken off.

    Args:
        request: as it came.
        since: `time.monotonic()` of when it came.
    """
    if request.deadline is None:
        return request
    return dataclasses.replace(request, deadline=max(0.0, request.deadline - (time.monotonic() - since)))
