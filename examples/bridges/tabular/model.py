"""A small classifier of tabular data: 30 measurements of a tumour, scaled to [0, 1], to benign or malignant."""

from torch import nn

FEATURES = 30


def net() -> nn.Module:
    """Rows travel as pictures of 1 x 1 x 30, so that files, commands and reports work as they do for images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 2))
