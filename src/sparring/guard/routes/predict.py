"""POST /v1/predict: pictures as an upload, as a form or as base64 JSON; a label each, or an abstention."""

from __future__ import annotations

import asyncio
from typing import Any

import torch
from fastapi import APIRouter
from python_multipart.exceptions import FormParserError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from sparring.guard.gate import admit, body
from sparring.guard.outcome import Outcome, Sender, event_key
from sparring.guard.pictures import decoded
from sparring.guard.reading import from_base64, json_of
from sparring.guard.refusal import RefusedError
from sparring.guard.routes.answering import Handler, json_response, measured
from sparring.guard.service import Guard

INLINE = 32 * 1024
"""Bytes up to which a picture is decoded at once; larger ones go to a thread, so that others need not wait."""
PICTURE = {"schema": {"type": "string", "format": "binary"}}
ASKED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/png": PICTURE,
            "image/jpeg": PICTURE,
            "image/webp": PICTURE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": PICTURE["schema"]}},
                    "required": ["images"],
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "description": "base64 of a PNG, JPEG or WebP file"},
                        }
                    },
                    "required": ["images"],
                }
            },
        },
    }
}
PREDICTION = {
    "type": "object",
    "properties": {
        "label": {"type": "integer"},
        "name": {"type": "string"},
        "confidence": {"type": "number"},
        "abstained": {"type": "boolean"},
        "reference": {"type": "string", "description": "what to quote when asking a person to look at it"},
    },
}
ANSWERED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One prediction per picture.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "trace": {"type": "string"},
                        "predictions": {"type": "array", "items": PREDICTION},
                    },
                    "required": ["trace", "predictions"],
                }
            }
        },
    }
}
REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"description": said}
    for status, said in {
        400: "What was sent is broken.",
        401: "A token is needed.",
        403: "The client is blocked or must solve a challenge.",
        408: "The upload took too long.",
        413: "Too large.",
        415: "Not a kind of content that is read here.",
        422: "Not what is expected.",
        429: "Too fast, or too many are waiting.",
        503: "Not ready.",
    }.items()
}


def handler(guard: Guard) -> Handler:
    """What answers the route."""

    async def handle(request: Request) -> Response:
        admitted = admit(guard, request)
        images = await _images(guard, request, await body(guard, request))
        guard.door.check_pace(admitted.caller.client, len(images))
        outcome = await guard.decide(images, Sender(admitted.caller.client, admitted.trace, admitted.at))
        said = [_said(guard, outcome, i, admitted.trace, admitted.label_only) for i in range(len(images))]
        return json_response({"trace": admitted.trace, "predictions": said})

    return measured(guard, "predict", handle)


def router(answer: Handler) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["predict"])

    @routes.post("/v1/predict", openapi_extra=ASKED, responses=ANSWERED | REFUSED, response_class=Response)
    async def predict(request: Request) -> Response:
        """Classify one picture or several."""
        return await answer(request)

    return routes


async def _images(guard: Guard, request: Request, data: bytes) -> Tensor:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        files = [data]
    elif kind == "application/json":
        files = [from_base64(text) for text in _listed(json_of(data), guard.settings.images_most)]
    elif kind == "multipart/form-data":
        files = await _uploaded(request, data, guard.settings.images_most)
    else:
        raise RefusedError(415, "content", "send image/png, image/jpeg, image/webp, a form or JSON with base64")
    shape, most = guard.engine.shape, guard.settings.pixels_most
    if len(files) == 1 and len(files[0]) <= INLINE:
        return decoded(files[0], shape, most)[None]
    return await asyncio.to_thread(lambda: torch.stack([decoded(file, shape, most) for file in files]))


def _listed(said: Any, most: int) -> list[Any]:
    images = said.get("images", said.get("image")) if isinstance(said, dict) else None
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not images:
        raise RefusedError(422, "json", 'send {"images": ["base64", ...]} with at least one picture')
    if len(images) > most:
        raise RefusedError(413, "images", f"send at most {most} images in one request")
    return images


async def _uploaded(request: Request, data: bytes, most: int) -> list[bytes]:
    async def stream() -> Any:
        yield data

    try:
        parser = MultiPartParser(request.headers, stream(), max_files=most, max_fields=8)
        form = await parser.parse()
    except (MultiPartException, FormParserError, KeyError, ValueError):
        raise RefusedError(400, "form", f"the form is broken, or has more than {most} files") from None
    try:
        files = [await part.read() for _, part in form.multi_items() if not isinstance(part, str)]
    finally:
        await form.close()
    if not files:
        raise RefusedError(422, "form", "the form has no file")
    return files


def _said(guard: Guard, outcome: Outcome, position: int, trace: str, label_only: bool) -> dict[str, Any]:
    answers, i = outcome.answers, outcome.first + position
    if answers.withheld[i]:
        return {"abstained": True, "reference": event_key(trace, position)}
    label = int(answers.labels[i])
    said: dict[str, Any] = {"label": label, "name": guard.engine.name(label)}
    if not label_only:
        said["confidence"] = round(float(answers.confidence[i]), 4)
    if guard.settings.show_scores and not label_only:
        said["scores"] = answers.logits[i].tolist()
    return said
