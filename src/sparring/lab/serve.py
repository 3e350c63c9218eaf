"""Runs the page: on this machine alone unless told otherwise, and without anything from elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparring.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from sparring.lab.play import Play

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
"""What a browser may load for the page: nothing from another host."""
FONTS = ("system-ui", "sans-serif")


def create_app(play: Play, host: str) -> FastAPI:
    """The page as an ASGI application. Raises `MissingExtraError` without gradio."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError as error:
        raise MissingExtraError("sparring lab", "lab") from error
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from sparring.lab.handlers import Desk
    from sparring.lab.page import CSS, page
    from sparring.lab.picture import UPLOAD

    app = FastAPI(openapi_url=None)

    @app.middleware("http")
    async def _guarded(request: Any, call: Callable[[Any], Awaitable[Any]]) -> Any:
        response = await call(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    if host in LOOPBACK:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
    theme = gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"))
    gr.mount_gradio_app(
        app,
        page(Desk(play)).queue(default_concurrency_limit=2),
        "/",
        theme=theme,
        css_paths=CSS,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        max_file_size=UPLOAD,
        show_error=True,
        enable_monitoring=False,
        pwa=False,
    )
    return app


@contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """A socket that is bound, so that the address is known before the page is there; and the page's address.

    Raises `InputError` where the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen()  # a browser that comes early waits
        except (OSError, OverflowError) as error:
            raise InputError(
                f"cannot listen on {host}:{port}: {error}; choose another, --port 0 is a free one"
            ) from error
        named = f"[{host}]" if ":" in host else host
        yield bound, f"http://{named}:{bound.getsockname()[1]}/"


def server(play: Play, host: str) -> uvicorn.Server:
    """A server that has not started."""
    app = create_app(play, host)
    import uvicorn

    config = uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    return uvicorn.Server(config)
