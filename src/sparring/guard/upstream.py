"""A model behind another server that speaks the Open Inference Protocol: images out, logits back."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor

from sparring.errors import ModelError
from sparring.guard.v2 import HEADER

SECONDS = 10.0
"""That an answer may take."""


class UpstreamError(ModelError):
    """The other server did not answer, or not in time: what is asked for may be had later."""


class Upstream:
    """Calls `url`, such as http://host:8000/v2/models/resnet, with binary tensors. The first output of floats in two
    dimensions must be logits, such as the "scores" of another guard with `show_scores`.
    """

    def __init__(self, url: str, seconds: float = SECONDS) -> None:
        import httpx

        self.url = url.rstrip("/")
        self._client = httpx.Client(timeout=seconds, follow_redirects=False, trust_env=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K). Raises `UpstreamError` where the other server fails, `ModelError` for another answer."""
        raw = images.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
        given = {"name": "images", "datatype": "FP32", "shape": list(images.shape)}
        text = json.dumps(
            {
                "inputs": [given | {"parameters": {"binary_data_size": len(raw)}}],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        body, header_length = self._sent(text + raw, len(text))
        try:
            logits = _logits(body, header_length)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ModelError("the upstream model's answer is not one of the Open Inference Protocol") from error
        if len(logits) != len(images):
            raise ModelError(f"the upstream model gave {len(logits)} rows of logits for {len(images)} images")
        return logits.to(images.device)

    def _sent(self, content: bytes, header_length: int) -> tuple[bytes, str | None]:
        """The answer's body; once more where the connection that was kept turns out to be closed."""
        import httpx

        for last in (False, True):
            try:
                answer = self._client.post(
                    f"{self.url}/infer", content=content, headers={HEADER: str(header_length)}
                ).raise_for_status()
                return answer.content, answer.headers.get(HEADER)
            except httpx.HTTPError as error:
                if last or not isinstance(error, (httpx.RemoteProtocolError, httpx.WriteError)):
                    raise UpstreamError(f"the upstream model does not answer: {type(error).__name__}") from error
        raise UpstreamError("the upstream model does not answer")


def _logits(body: bytes, header_length: str | None) -> Tensor:
    end = at = len(body) if header_length is None else int(header_length)
    for output in json.loads(body[:end])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        data, at = (None, at) if size is None else (body[at : at + size], at + size)
        if output["datatype"] == "FP32" and len(output["shape"]) == 2:
            values = np.frombuffer(data, dtype="<f4") if data is not None else np.asarray(output["data"], np.float32)
            return torch.from_numpy(values.reshape(output["shape"]).copy())
    raise KeyError("no output of floats in two dimensions")
