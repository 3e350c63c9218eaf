"""Trains a small vision transformer on scikit-learn's digits and saves it as a checkpoint of transformers."""

import json
from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification

import sparring as sp


def make(folder: str = "checkpoint", steps: int = 300) -> None:
    """The folder holds config.json, model.safetensors and preprocessor_config.json, whose mean and std it was trained
    with.
    """
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=10, **sizes))
    images, labels = sp.load_data("digits", split="train")
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        chosen = torch.randint(len(images), (128,))
        optimiser.zero_grad()
        logits = model((images[chosen] - 0.5) / 0.5).logits
        torch.nn.functional.cross_entropy(logits, labels[chosen]).backward()
        optimiser.step()
    model.save_pretrained(folder)
    preprocessing = {"do_rescale": True, "do_normalize": True, "image_mean": [0.5], "image_std": [0.5], "size": 8}
    Path(folder, "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=1))


if __name__ == "__main__":
    make()
