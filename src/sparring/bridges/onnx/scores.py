"""Scores of an ONNX file, computed by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.bridges.onnx.graph import Graph, library
from sparring.errors import ModelError
from sparring.loading.reason import reason


class OnnxScores(nn.Module):
    """Images (N, C, H, W) to scores (N, K) on the CPU. A softmax at the end is undone by a logarithm.

    A file with a fixed batch size is asked in such batches, the last one filled up.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        self.inverted = graph.last is not None and graph.last.operator == "Softmax"
        self._session = self._opened()

    def extra_repr(self) -> str:
        """What the digest of the model must tell apart."""
        return f"sha256={self._graph.digest[:16]}"

    def __getstate__(self) -> dict[str, Any]:
        """A copy opens the file again; sessions cannot be copied."""
        return {**vars(self), "_session": None}

    def forward(self, images: Tensor) -> Tensor:
        """Scores as logits, in the dtype of `images`."""
        if self._session is None:
            self._session = self._opened()
        pictures = images.detach().cpu().to(torch.float32).contiguous().numpy()
        batch = self._graph.shape[0] if self._graph.shape else None
        parts = [pictures] if batch is None else [pictures[i : i + batch] for i in range(0, len(pictures), batch)]
        scores = np.concatenate([self._run(part, batch) for part in parts])
        found = torch.from_numpy(scores).to(images)
        return found.clamp_min(1e-30).log() if self.inverted else found

    def _run(self, part: np.ndarray, batch: int | None) -> np.ndarray:
        missing = 0 if batch is None else batch - len(part)
        filled = np.concatenate([part, np.repeat(part[:1], missing, 0)]) if missing else part
        try:
            scores = np.asarray(self._session.run([self._graph.output], {self._graph.input: filled})[0])
        except Exception as error:  # onnxruntime raises classes of its own
            raise ModelError(f"{self._graph.path} failed on images {filled.shape}: {reason(error)}") from error
        if scores.dtype != np.float32 or scores.ndim < 1 or len(scores) != len(filled):
            raise ModelError(f"{self._graph.path} gives {scores.dtype} {scores.shape} for {len(filled)} images")
        return scores[: len(part)]

    def _opened(self) -> Any:
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            place, providers = str(self._graph.path), ["CPUExecutionProvider"]
            return runtime.InferenceSession(place, options, providers=providers, enable_fallback=False)
        except Exception as error:  # onnxruntime raises classes of its own
            raise ModelError(f"onnxruntime cannot run {self._graph.path}: {reason(error)}") from error
