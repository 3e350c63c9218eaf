"""One way to answer: measured, with the refusals as JSON, and never with a trace of what went wrong inside."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sparring.guard.refusal import RefusedError
from sparring.guard.service import Guard

LOG = logging.getLogger("sparring.guard")
Handler = Callable[[Request], Awaitable[Response]]
JSON = "application/json"


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON without detours."""
    return Response(json.dumps(content), status, headers, JSON)


def refused(error: RefusedError) -> Response:
    """What the sender of a refused request reads."""
    return json_response({"error": error.said}, error.status, error.headers)


def measured(guard: Guard, route: str, handle: Handler) -> Handler:
    """`handle`, with its answers counted and timed, and whatever it raises turned into one."""
    seconds, requests = guard.metrics.seconds.labels(route), guard.metrics.requests
    fine = requests.labels(route, "200")

    async def answer(request: Request) -> Response:
        start = time.perf_counter()
        guard.batcher.expected += 1
        try:
            response = await handle(request)
        except RefusedError as error:
            guard.metrics.refused.labels(error.reason).inc()
            response = refused(error)
        except Exception:  # the sender learns nothing of it, the log does
            LOG.exception("%s failed", route)
            response = json_response({"error": "internal error"}, 500)
        finally:
            guard.batcher.expected -= 1
        seconds.observe(time.perf_counter() - start)
        (fine if response.status_code == 200 else requests.labels(route, str(response.status_code))).inc()
        return response

    return answer
