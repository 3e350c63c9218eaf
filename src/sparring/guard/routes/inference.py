"""The Open Inference Protocol, version 2, so that KServe's and Triton's clients work unchanged."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from sparring import __version__
from sparring.guard import v2
from sparring.guard.gate import admit, body
from sparring.guard.outcome import Sender
from sparring.guard.refusal import RefusedError
from sparring.guard.routes.answering import Handler, json_response, measured
from sparring.guard.routes.predict import REFUSED
from sparring.guard.service import Guard

ASKED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": {"type": "object"}}},
                    "required": ["inputs"],
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Labels, confidences and abstentions; as JSON, or with binary tensors where asked for.",
        "content": {"application/json": {}, "application/octet-stream": {}},
    },
    404: {"description": "No such model."},
    **REFUSED,
}


def handler(guard: Guard) -> Handler:
    """What answers .../infer."""
    name, scores = guard.settings.served_as, guard.settings.show_scores

    async def handle(request: Request) -> Response:
        _check(guard, request)
        admitted = admit(guard, request)
        data = await body(guard, request)
        images, said = v2.read(data, request.headers.get(v2.HEADER), guard.engine.shape, guard.settings.images_most)
        guard.door.check_pace(admitted.caller.client, len(images))
        outcome = await guard.decide(images, Sender(admitted.caller.client, admitted.trace, admitted.at))
        tensors = outcome.tensors(scores and not admitted.label_only)
        if admitted.label_only:
            tensors["confidence"] = tensors["confidence"] * 0
        text, headers = v2.write(said, name, _version(guard), tensors, admitted.trace)
        return Response(text, headers=headers)

    return measured(guard, "infer", handle)


def _version(guard: Guard) -> str:
    return guard.engine.digest[:12]


def _check(guard: Guard, request: Request) -> None:
    """Raise `RefusedError` 404 for another model than ours; a path without parameters named it already."""
    given = request.path_params
    if given and (given["model"] != guard.settings.served_as or given.get("version") not in (None, _version(guard))):
        raise RefusedError(404, "model", "no such model or version")


def router(guard: Guard, infer: Handler) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Open Inference Protocol"])
    name, scores = guard.settings.served_as, guard.settings.show_scores

    async def described(request: Request) -> Response:
        _check(guard, request)
        return json_response(v2.metadata(guard.engine, name, _version(guard), scores))

    async def model_ready(request: Request) -> Response:
        _check(guard, request)
        return json_response({"name": name, "ready": guard.ready}, 200 if guard.ready else 503)

    describe, ready = measured(guard, "metadata", described), measured(guard, "ready", model_ready)

    @routes.get("/v2")
    async def server() -> dict[str, Any]:
        """What this server is."""
        return {"name": "sparring-guard", "version": __version__.split(".")[0], "extensions": ["binary_tensor_data"]}

    @routes.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Is the process alive?"""
        return {"live": True}

    @routes.get("/v2/health/ready", responses={503: {"description": "Not ready."}})
    async def server_ready() -> Response:
        """Are requests taken?"""
        return json_response({"ready": guard.ready}, 200 if guard.ready else 503)

    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):

        @routes.get(path, responses=ANSWERED, response_class=Response)
        async def metadata(request: Request) -> Response:
            """The model's inputs and outputs."""
            return await describe(request)

        @routes.get(path + "/ready", responses=ANSWERED, response_class=Response)
        async def metadata_ready(request: Request) -> Response:
            """Does the model take requests?"""
            return await ready(request)

        @routes.post(path + "/infer", openapi_extra=ASKED, responses=ANSWERED, response_class=Response)
        async def infer_(request: Request) -> Response:
            """Classify a tensor of images."""
            return await infer(request)

    return routes
