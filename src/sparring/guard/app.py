"""The ASGI application: any server that speaks ASGI can host it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sparring.guard.direct import Direct
from sparring.guard.refusal import RefusedError
from sparring.guard.routes import health, inference, pages, predict
from sparring.guard.routes.answering import json_response, refused
from sparring.guard.service import Guard

LOG = logging.getLogger("sparring.guard")


def create_app(guard: Guard) -> Direct:
    """The service around `guard`, which starts and ends with it, as an ASGI application. SIGHUP reloads the stack."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        guard.start()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ValueError, NotImplementedError, RuntimeError):  # not in the main thread
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, guard.reload))
        yield
        await guard.close()

    app = FastAPI(title="sparring guard", version="1", lifespan=lifespan, redoc_url=None)
    one, many = predict.handler(guard), inference.handler(guard)
    routers = (predict.router(one), inference.router(guard, many), health.router(guard), pages.router(guard))
    for router in routers:
        app.include_router(router)
    direct = {"/v1/predict": one, f"/v2/models/{guard.settings.served_as}/infer": many}
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    return Direct(app, direct)


async def _refused(_: Request, error: Exception) -> Response:
    return refused(error) if isinstance(error, RefusedError) else await _failed(_, error)


async def _http(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return json_response(
        {"error": {404: "not found", 405: "method not allowed"}.get(status, "refused")}, status, headers
    )


async def _invalid(_: Request, error: Exception) -> Response:
    del error  # it would quote what was sent
    return json_response({"error": "the request is not what is expected"}, 422)


async def _failed(_: Request, error: Exception) -> Response:
    LOG.error("failed", exc_info=error)
    return json_response({"error": "internal error"}, 500)
