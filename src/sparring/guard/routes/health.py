"""/healthz, /readyz and /metrics."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from sparring.guard.operators import check_operator
from sparring.guard.routes.answering import json_response, measured
from sparring.guard.service import Guard


def router(guard: Guard) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Does the process answer?"""
        return {"status": "alive"}

    @routes.get("/readyz", responses={503: {"description": "Starting, stopping, or the store fails in closed mode."}})
    async def readyz() -> Response:
        """May requests be sent here?"""
        fine = guard.ready and (guard.writer.healthy or guard.settings.events == "open")
        return json_response({"status": "ready" if fine else "not ready"}, 200 if fine else 503)

    async def exposition(request: Request) -> Response:
        check_operator(guard, request)
        return Response(guard.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    read = measured(guard, "metrics", exposition)

    @routes.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses={
            401: {"description": "An operator's token is needed."},
            403: {"description": "Not for this machine."},
        },
    )
    async def metrics(request: Request) -> Response:
        """Prometheus's exposition. Needs an operator's token; without tokens, a loopback address."""
        return await read(request)

    return routes
