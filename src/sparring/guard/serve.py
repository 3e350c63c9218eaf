"""Runs the service with uvicorn: no banners, no forwarded headers but by our own rules, and time to finish."""

from __future__ import annotations

import gc
import logging
import sys

import uvicorn
from threadpoolctl import threadpool_limits

from sparring.guard.app import create_app
from sparring.guard.service import Guard

FINISH = 30
"""Seconds that running requests have after SIGTERM."""
CONNECTIONS = 2000
SWITCH = 0.0005
"""Seconds after which a busy thread lets another one run: the model's thread must not wait for the event loop."""


def server(guard: Guard, host: str, port: int) -> uvicorn.Server:
    """A server that has not started."""
    sys.setswitchinterval(SWITCH)
    config = uvicorn.Config(
        create_app(guard),
        host=host,
        port=port,
        log_config=None,  # a program's own handlers are not uvicorn's to close
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=FINISH,
        timeout_keep_alive=30,
        backlog=512,
    )
    return uvicorn.Server(config)


def serve(guard: Guard, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    logging.getLogger("sparring.guard").setLevel(logging.INFO)
    gc.collect()
    gc.freeze()  # what stays for good need not be looked through again and again while requests wait
    with threadpool_limits(1, user_api="blas"):  # small products wait longer for a second thread than they take
        server(guard, host, port).run()
