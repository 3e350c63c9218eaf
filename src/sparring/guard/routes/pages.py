"""The operators' pages below /operator/."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from sparring.errors import InputError
from sparring.guard.gate import body
from sparring.guard.operators import COOKIE, HOURS, check_operator, cookie, same_origin
from sparring.guard.pages import views
from sparring.guard.refusal import RefusedError
from sparring.guard.reviews import judge, waiting
from sparring.guard.routes.answering import measured
from sparring.guard.service import Guard

PAGES = (
    ("/operator/", "Traffic"),
    ("/operator/alerts", "Alerts"),
    ("/operator/review", "Review"),
    ("/operator/simulator", "Simulator"),
)
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
TEMPLATES.filters["clock"] = lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
Show = Callable[[Request, str], Awaitable[Response]]


def page(template: str, title: str, status: int = 200, /, **values: Any) -> Response:
    """A page."""
    text = TEMPLATES.get_template(f"{template}.html.j2").render(title=title, current=title, pages=PAGES, **values)
    return HTMLResponse(text, status, HEADERS)


def router(guard: Guard) -> APIRouter:
    """The routes; none of them is in the OpenAPI document."""
    routes = APIRouter(include_in_schema=False)

    def route(method: str, path: str) -> Callable[[Show], Show]:
        """Let operators in, send others to the login."""

        def decorate(show: Show) -> Show:
            async def checked(request: Request) -> Response:
                try:
                    name = check_operator(guard, request)
                except RefusedError as error:
                    if error.status == 401 and method == "GET":
                        return RedirectResponse("/operator/login", 303)
                    raise
                if method == "POST" and not same_origin(request):
                    raise RefusedError(403, "origin", "the form was not ours")
                return await show(request, name)

            answer = measured(guard, "operator", checked)

            async def endpoint(request: Request) -> Response:
                return await answer(request)

            routes.add_api_route(path, endpoint, methods=[method], response_class=Response)
            return show

        return decorate

    @route("GET", "/operator/")
    async def traffic(request: Request, _: str) -> Response:
        span = request.query_params.get("span", "hour")
        span = span if span in views.SPANS else "hour"
        found = await asyncio.to_thread(views.traffic, guard.store, span)
        said = {
            "stack": guard.engine.digest[:16],
            "watched": guard.watcher is not None,
            "dropped": guard.writer.dropped,
        }
        return page("traffic", "Traffic", spans=views.SPANS, span=span, **said, **found)

    @route("GET", "/operator/alerts")
    async def alerts(_: Request, __: str) -> Response:
        return page("alerts", "Alerts", alerts=await asyncio.to_thread(views.alerts, guard.store))

    @route("GET", "/operator/clients/{client}")
    async def client(request: Request, _: str) -> Response:
        return page(
            "client", "Client", **await asyncio.to_thread(views.client, guard, request.path_params["client"][:32])
        )

    @route("GET", "/operator/review")
    async def review(request: Request, _: str) -> Response:
        before = request.query_params.get("before", "")
        number = int(before) if before.isdecimal() and len(before) < 18 else None
        rows = await asyncio.to_thread(waiting, guard.store, 24, number)
        classes = [(label, guard.engine.name(label)) for label in range(guard.engine.classes)]
        more = rows[-1]["id"] if len(rows) == 24 else None
        return page("review", "Review", rows=views.queue(guard, rows), classes=classes, more=more)

    @route("POST", "/operator/review")
    async def verdict(request: Request, name: str) -> Response:
        form = parse_qs((await body(guard, request)).decode("utf-8", errors="replace"))
        try:
            label = int(form.get("label", [""])[0])
            await asyncio.to_thread(judge, guard.store, form.get("key", [""])[0], label, guard.engine.classes, name)
        except (ValueError, InputError):
            raise RefusedError(400, "verdict", "no such event or class") from None
        return RedirectResponse("/operator/review", 303)

    @route("GET", "/operator/simulator")
    async def simulator(request: Request, _: str) -> Response:
        scale: dict[str, float] = {}
        for kind, text in request.query_params.items():
            with contextlib.suppress(ValueError):
                scale[kind[:32]] = min(10.0, max(0.1, float(text)))
        return page("simulator", "Simulator", result=await asyncio.to_thread(views.simulation, guard, scale))

    @route("GET", "/operator/pictures/{key}")
    async def picture(request: Request, _: str) -> Response:
        try:
            data = None if guard.quarantine is None else guard.quarantine.get(request.path_params["key"])
        except InputError:
            data = None
        if data is None:
            raise RefusedError(404, "picture", "no such picture")
        return Response(data, media_type="image/png", headers=HEADERS)

    async def login(_: Request) -> Response:
        return page("login", "Login", wrong=False)

    async def enter(request: Request) -> Response:
        guard.door.check_pace(f"login {guard.door.address(request)}", 1, 0.2)
        form = parse_qs((await body(guard, request)).decode("utf-8", errors="replace"))
        tokens = guard.door.tokens
        found = None if tokens is None else tokens.find(form.get("token", [""])[0])
        if found is None or found[1] != "operator" or not same_origin(request):
            return page("login", "Login", 401, wrong=True)
        answer = RedirectResponse("/operator/", 303)
        secure = request.url.scheme == "https"
        text = cookie(guard.key, found[0], time.time())
        answer.set_cookie(COOKIE, text, HOURS * 3600, httponly=True, samesite="strict", secure=secure)
        return answer

    shown, entered = measured(guard, "login", login), measured(guard, "login", enter)

    @routes.get("/operator/login", response_class=Response)
    async def login_page(request: Request) -> Response:
        return await shown(request)

    @routes.post("/operator/login", response_class=Response)
    async def login_form(request: Request) -> Response:
        return await entered(request)

    return routes
