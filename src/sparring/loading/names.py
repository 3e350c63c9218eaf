"""The names of what is built in. They are known without torch, so text can be checked and completed at once."""

from __future__ import annotations

MODELS = {
    "digits-cnn": "digits",
    "imagenet-lite0": "photos",
    "imagenet-lite1": "photos",
    "imagenet-lite2": "photos",
}
"""Model to the data set that shows it."""
DATA_SETS = ("digits", "mnist5k", "fashion-mnist", "photos")
