"""Trains the classifier on scikit-learn's breast cancer data; writes weights, test rows, and who may change what."""

import numpy as np
import torch
from model import net
from safetensors.torch import save_file
from sklearn.datasets import load_breast_cancer

CAN_CHANGE = ("texture", "smoothness")
"""What this attacker can falsify: three of thirty columns each (mean, error, worst). The rest is out of reach."""


def make(seed: int = 0) -> None:
    """weights.safetensors, rows.npz, mask.npy."""
    torch.manual_seed(seed)
    data = load_breast_cancer()
    low, high = data.data.min(0), data.data.max(0)
    rows = torch.tensor((data.data - low) / (high - low), dtype=torch.float32).view(-1, 1, 1, data.data.shape[1])
    labels = torch.tensor(data.target)
    order = torch.randperm(len(rows))
    train, test = order[:400], order[400:]
    model = net()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(rows[train]), labels[train]).backward()
        optimiser.step()
    mask = np.array([any(name in feature for name in CAN_CHANGE) for feature in data.feature_names])
    save_file(model.state_dict(), "weights.safetensors")
    np.savez("rows.npz", images=rows[test].numpy(), labels=labels[test].numpy())
    np.save("mask.npy", mask.reshape(1, 1, -1))


if __name__ == "__main__":
    make()
