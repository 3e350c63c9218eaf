"""ONNX files: scores through onnxruntime, and gradients where the graph can be rebuilt in torch."""

from sparring.bridges.onnx.opening import open_onnx
from sparring.bridges.onnx.operators import OPERATORS
from sparring.bridges.onnx.rebuilt import Rebuilt
from sparring.bridges.onnx.scores import OnnxScores

__all__ = ["OPERATORS", "OnnxScores", "Rebuilt", "open_onnx"]
