"""Hostile requests: each gets a 4xx, no trace of the inside, and takes neither the service nor its memory along."""

from __future__ import annotations

import base64
import io
import json
import resource
import socket
import struct
import zlib
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers_guard import Running, png, running
from torch import nn

from sparring.guard.v2 import HEADER

PICTURE = png(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)))
COLOUR = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
JPEG, WEBP = png(COLOUR, "JPEG"), png(COLOUR, "WEBP")
INSIDE = ("Traceback", "File ", ".py", "torch", "sqlalchemy", "site-packages", "Error:")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def drawn(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG that says it is `width` x `height`."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def animation(kind: str) -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 128, 255)]
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def other(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind)
    return stream.getvalue()


def tensor(
    shape: object = (1, 1, 8, 8), data: object = None, datatype: object = "FP32", **more: object
) -> dict[str, object]:
    return {
        "inputs": [
            {
                "name": "images",
                "shape": shape,
                "datatype": datatype,
                "data": [0.5] * 64 if data is None else data,
                **more,
            }
        ]
    }


PICTURES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"hello",
    "html": b"<script>alert(1)</script>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "pdf": b"%PDF-1.7\n",
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "elf": b"\x7fELF" + b"\0" * 100,
    "pickle": b"\x80\x04\x95" + b"\0" * 50,
    "nothing but zeros": b"\0" * 5000,
    **{kind: other(kind) for kind in ("GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX")},
    "png magic only": b"\x89PNG\r\n\x1a\n",
    "jpeg magic only": b"\xff\xd8\xff",
    "jpeg magic, rest noise": b"\xff\xd8\xff" + bytes(range(256)) * 8,
    "riff of sound": b"RIFF\x24\0\0\0WAVEfmt ",
    "riff of nothing": b"RIFF\0\0\0\0WEBP",
    **{
        f"png cut at {n}": PICTURE[:n]
        for n in (9, 20, 33, 40, 50, len(PICTURE) - 13, len(PICTURE) - 5, len(PICTURE) - 1)
    },
    **{f"jpeg cut at {n}": JPEG[:n] for n in (3, 20, 200, 500, len(JPEG) // 2)},
    **{f"webp cut at {n}": WEBP[:n] for n in (12, 20, 40, len(WEBP) // 2, len(WEBP) - 2)},
    "bomb 20000 x 20000": drawn(20000, 20000, b"\0" * 10**6),
    "bomb 2^31 x 1": drawn(2**31 - 1, 1, b"\0"),
    "bomb 1 x 2^31": drawn(1, 2**31 - 1, b"\0"),
    "bomb 65535 x 65535 colour": drawn(65535, 65535, b"\0" * 100, colour=2),
    "bomb of a short deflate": drawn(4000, 4001, b"\0" * (4001 * 4001)),
    "no pixels": drawn(0, 0, b""),
    "no width": drawn(0, 8, b""),
    "depth 3": drawn(8, 8, b"\0" * 72, depth=3),
    "colour type 9": drawn(8, 8, b"\0" * 72, colour=9),
    "filter 77": drawn(8, 8, b"\x4d" * 72),
    "wrong checksum": PICTURE[:30] + b"\0\0\0\0" + PICTURE[34:],
    "chunk of 4 GB": PICTURE[:33] + struct.pack(">I", 2**32 - 1) + PICTURE[37:],
    "no end": PICTURE[:-12],
    "text bomb": PICTURE[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(b"A" * 80_000_000)) + PICTURE[33:],
    "profile bomb": PICTURE[:33] + chunk(b"iCCP", b"k\0\0" + zlib.compress(b"A" * 80_000_000)) + PICTURE[33:],
    "png and zip": PICTURE + b"PK\x03\x04" + b"x" * 200,
    "png and html": PICTURE + b"<script>alert(1)</script>",
    "png twice": PICTURE + PICTURE,
    "jpeg and zip": JPEG + b"PK\x03\x04" + b"x" * 200,
    "jpeg and a second end": JPEG + b"PK\x03\x04" + b"x" * 200 + b"\xff\xd9",
    "webp and zip": WEBP + b"PK\x03\x04" + b"x" * 200,
    "animated png": animation("PNG"),
    "animated webp": animation("WEBP"),
}
BODIES: dict[str, object] = {
    "no images": {},
    "empty list": {"images": []},
    "null": {"images": None},
    "number": {"images": 5},
    "numbers": {"images": [1, 2]},
    "nested": {"images": [["x"]]},
    "object": {"images": {"a": "b"}},
    "not base64": {"images": ["%%%%"]},
    "base64 of text": {"images": [base64.b64encode(b"hello").decode()]},
    "unicode": {"images": ["\U0001f600"]},
    "null byte": {"images": ["\0"]},
    "list": ["x"],
    "text": "x",
    "too many": {"images": [base64.b64encode(PICTURE).decode()] * 200},
    "url": {"images": ["http://169.254.169.254/latest/meta-data"]},
    "path": {"images": ["../../etc/passwd"]},
}
RAW: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"images": [',
    "deep list": b"[" * 100_000,
    "deep and closed": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep behind a text": b'{"x": "' + b"a" * 1000 + b'", "images": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "nan": b'{"images": NaN}',
    "infinity": b'{"images": [Infinity]}',
    "utf-16": '{"images": []}'.encode("utf-16"),
    "broken utf-8": b'{"images": ["\xff\xfe"]}',
    "long number": b'{"images": ' + b"9" * 5000 + b"}",
    "open text": b'{"images": ["' + b"\\" * 1001,
}
TENSORS: dict[str, object] = {
    "no inputs": {},
    "two inputs": {"inputs": tensor()["inputs"] * 2},
    "inputs null": {"inputs": None},
    "input text": {"inputs": ["x"]},
    "datatype missing": tensor(datatype=None),
    "datatype list": tensor(datatype=["FP32"]),
    "bytes": tensor(datatype="BYTES"),
    "int64": tensor(datatype="INT64"),
    "shape missing": tensor(shape=None),
    "shape text": tensor(shape="1,1,8,8"),
    "shape of floats": tensor(shape=[1.0, 1, 8, 8]),
    "shape of booleans": tensor(shape=[True, 1, 8, 8]),
    "negative": tensor(shape=[-1, 1, 8, 8]),
    "no images": tensor(shape=[0, 1, 8, 8], data=[]),
    "huge": tensor(shape=[10**12, 1, 8, 8]),
    "other size": tensor(shape=[1, 1, 9, 8]),
    "other rank": tensor(shape=[1, 8, 8]),
    "too few numbers": tensor(data=[0.5] * 63),
    "too many numbers": tensor(data=[0.5] * 65),
    "texts": tensor(data=["x"] * 64),
    "nulls": tensor(data=[None] * 64),
    "ragged": tensor(data=[[0.5] * 3, [0.5] * 61]),
    "objects": tensor(data=[{}] * 64),
    "above one": tensor(data=[2.0] * 64),
    "below zero": tensor(data=[-0.1] * 64),
    "1e300": tensor(data=[1e300] * 64),
    "uint8 300": tensor(data=[300] * 64, datatype="UINT8"),
    "uint8 half": tensor(datatype="UINT8"),
    "binary promised": tensor(parameters={"binary_data_size": 256}),
    "binary size text": tensor(parameters={"binary_data_size": "256"}),
    "parameters text": tensor(parameters="x", data={}),
    "unknown output": {**tensor(), "outputs": [{"name": "weights"}]},
}


@pytest.fixture(scope="module")
def serving(digits_net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guard")
    with running(digits_net, database=f"sqlite:///{folder}/events.db", body_most=2**20) as service:
        yield service


@pytest.fixture(scope="module")
def client(serving: Running) -> httpx.Client:
    return serving.client()


def check(answer: httpx.Response, *, fine: tuple[int, ...] = ()) -> None:
    assert 400 <= answer.status_code < 500 or answer.status_code in fine, (answer.status_code, answer.text)
    assert not any(word in answer.text for word in INSIDE), answer.text
    assert "server" not in answer.headers


@pytest.mark.parametrize("name", PICTURES)
def test_a_hostile_picture(client, name: str) -> None:
    check(client.post("/v1/predict", content=PICTURES[name], headers={"Content-Type": "image/png"}))
    check(client.post("/v1/predict", files={"images": PICTURES[name]}))


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_json(client, name: str) -> None:
    check(client.post("/v1/predict", json=BODIES[name]))


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/model/infer"])
def test_a_broken_json(client, name: str, path: str) -> None:
    check(client.post(path, content=RAW[name], headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("name", TENSORS)
def test_a_hostile_tensor(client, name: str) -> None:
    check(client.post("/v2/models/model/infer", json=TENSORS[name]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e-3, 1.001, 1e38])
def test_hostile_numbers_in_a_binary_tensor(client, value: float) -> None:
    raw = np.full(64, value, "<f4").tobytes()
    given = {"name": "images", "datatype": "FP32", "shape": [1, 1, 8, 8], "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [given]}).encode()
    check(client.post("/v2/models/model/infer", content=text + raw, headers={HEADER: str(len(text))}))


@pytest.mark.parametrize("length", ["", "x", "-1", "1e3", "99999999999999999999", "0", "5", "\u00b2".encode()])
def test_a_wrong_header_length(client, length) -> None:
    check(client.post("/v2/models/model/infer", content=b'{"inputs": []}', headers={HEADER: length}))


HEADERS = [
    {"Content-Type": "multipart/form-data"},
    {"Content-Type": "multipart/form-data; boundary="},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": "text/html"},
    {"Content-Type": "application/x-python-pickle"},
    {"Content-Type": "\xff\xfe"},
    {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    {"Content-Type": "image/png", "X-Forwarded-For": "127.0.0.1' OR 1=1 --"},
    {"Content-Type": "image/png", "X-Forwarded-For": "," * 5000},
    {"Content-Type": "image/png", "Authorization": "Bearer " + "\xff" * 100},
]


@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_hostile_headers(client, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    check(client.post("/v1/predict", content=b"x", headers=raw))


PATHS = [
    "/v2/models/../../etc/passwd",
    "/v2/models/%00/infer",
    "/v2/models/model/versions/x/infer",
    "/operator/../x",
    "/.env",
    "/v1",
    "/v2/models/model/infer/x",
    "/%2e%2e/%2e%2e/x",
    "//v1//predict",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "TRACE"])
def test_hostile_paths(client, method: str, path: str) -> None:
    check(client.request(method, path))


def test_a_body_that_is_longer_than_said_or_never_ends(serving) -> None:
    check(serving.client().post("/v1/predict", content=b"\0" * (2**20 + 1), headers={"Content-Type": "image/png"}))

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b"\0" * 2**16

    check(serving.client().post("/v1/predict", content=endless(), headers={"Content-Type": "image/png"}))


RAW_HTTP = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
]


@pytest.mark.parametrize("number", range(len(RAW_HTTP)))
def test_broken_http(serving, number: int) -> None:
    port = int(serving.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        line.settimeout(1)
        try:
            line.sendall(RAW_HTTP[number])
            answer = line.recv(4096)
        except (TimeoutError, ConnectionError):
            answer = b""
    assert b" 500 " not in answer[:20]
    assert serving.client().get("/healthz").status_code == 200


def test_memory_does_not_grow_and_the_service_still_answers(serving, client) -> None:
    """Everything hostile once more, many times: the peak of the process stays where the first round left it."""

    def round_of() -> None:
        for data in PICTURES.values():
            client.post("/v1/predict", content=data, headers={"Content-Type": "image/png"})
        for said in TENSORS.values():
            client.post("/v2/models/model/infer", json=said)

    round_of()
    peak: Callable[[], int] = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # noqa: E731
    before = peak()
    for _ in range(3):
        round_of()
    assert peak() - before < 20 * 1024, "KiB"
    answer = client.post("/v1/predict", content=PICTURE, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    assert serving.guard.ready
