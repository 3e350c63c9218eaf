"""Exports digits-cnn to digits.onnx, as anyone would export a network of theirs."""

import warnings

import torch

import sparring as sp


def make(path: str = "digits.onnx") -> None:
    """One input named images, any batch size."""
    model = sp.load_model("digits-cnn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["images"], "dynamic_axes": {"images": {0: "n"}}}
        torch.onnx.export(model, (torch.zeros(1, 1, 8, 8),), path, dynamo=False, **names)


if __name__ == "__main__":
    make()
