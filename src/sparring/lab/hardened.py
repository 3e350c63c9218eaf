"""The hardened digits network: trained by `sparring.harden` on first use (seconds to a minute), then cached."""

from __future__ import annotations

import copy
import hashlib
from contextlib import suppress

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from sparring.errors import InputError
from sparring.files import write_whole
from sparring.loading import load_data
from sparring.loading.cache import cache_folder
from sparring.loading.digits_cnn import digits_cnn
from sparring.model import model_digest
from sparring.threat import ThreatModel

EPS, EPOCHS = "25/255", 12


def hardened_digits(standard: nn.Module) -> nn.Module:
    """`digits-cnn` after fast adversarial training (Wong et al. 2020) in linf at 25/255, from the cache if it is there.

    A cache that cannot be written costs the training again, next time.
    """
    key = hashlib.sha256(f"{model_digest(standard, (1, 8, 8))}|{EPS}|{EPOCHS}".encode()).hexdigest()[:16]
    with torch.random.fork_rng(devices=[]):
        network = digits_cnn()
    with suppress(InputError, OSError, SafetensorError, RuntimeError):
        network.load_state_dict(load((cache_folder() / f"digits-hardened-{key}.safetensors").read_bytes()))
        return network.eval().requires_grad_(False)
    from sparring.hardening.harden import harden

    images, labels = load_data("digits", split="train")
    trained = harden(
        copy.deepcopy(standard).requires_grad_(True),
        (images, labels),
        ThreatModel("linf", EPS),
        method="rs_fgsm",
        epochs=EPOCHS,
        effort=None,
    ).model
    with suppress(InputError):
        content = save({name: tensor.contiguous() for name, tensor in trained.state_dict().items()})
        write_whole(cache_folder() / f"digits-hardened-{key}.safetensors", content)
    return trained.eval().requires_grad_(False)
