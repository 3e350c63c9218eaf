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


class Upstream:
    """Calls `url`, such as http://host:8000/v2/models/resnet, with binary tensors; its first output must be logits."""

    def __init__(self, url: str, seconds: float = SECONDS) -> None:
        import httpx

        self.url = url.rstrip("/")
        self._client = httpx.Client(timeout=seconds)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K). Raises `ModelError` where the other server fails."""
        import httpx

        raw = images.detach().cpu().contiguous().numpy().astype("<f4").tobytes()
        said = {
            "inputs": [
                {
                    "name": "images",
                    "datatype": "FP32",
                    "shape": list(images.shape),
                    "parameters": {"binary_data_size": len(raw)},
                }
            ]
        }
        text = json.dumps(said).encode()
        try:
            answer = self._client.post(
                f"{self.url}/infer", content=text + raw, headers={HEADER: str(len(text))}
            ).raise_for_status()
            return _logits(answer.content, answer.headers.get(HEADER))
        except httpx.HTTPError as error:
            raise ModelError(f"the upstream model does not answer: {type(error).__name__}") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ModelError("the upstream model's answer is not one of the Open Inference Protocol") from error


def _logits(body: bytes, header_length: str | None) -> Tensor:
    end = len(body) if header_length is None else int(header_length)
    output = json.loads(body[:end])["outputs"][0]
    size = output.get("parameters", {}).get("binary_data_size")
    if size is None:
        values = np.asarray(output["data"], dtype=np.float32)
    else:
        values = np.frombuffer(body[end : end + size], dtype="<f4")
    return torch.from_numpy(values.reshape(output["shape"]).copy())
