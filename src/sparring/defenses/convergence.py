"""How much of a random stack's accuracy is left as the attacker averages over more draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sparring.defenses.attacking.objectives import Wrong
from sparring.defenses.attacking.pursuit import pursue
from sparring.defenses.attacking.scene import Bill, Scene
from sparring.defenses.attacking.stages import Stage
from sparring.defenses.outcome import Convergence
from sparring.defenses.scoring import scored, share

DRAWS = (1, 4, 16, 32)
IMAGES = 100


def convergence(
    scene: Scene, draws: int, *, tried: Sequence[int] = DRAWS, steps: int = 50, images: int = IMAGES
) -> tuple[Convergence, ...]:
    """The same attack with more and more draws per step on the same images, scored by `draws` fresh draws. Where the
    last entries agree, more draws would not help the attacker.
    """
    part = replace(scene.select(torch.arange(min(images, len(scene)))), bill=Bill())
    clean = scored(part.stack, part.images, part.labels, draws, part.seed + 1).accepted_right
    found = []
    for count in tried:
        stage = Stage(f"EOT-{count}", Wrong(), steps, 1, draws=count)
        worst, _ = pursue(part, [stage], [], lambda name, standing: None)
        again = scored(part.stack, worst.points, part.labels, draws, part.seed + 2)
        found.append(Convergence(count, share(torch.minimum(clean, again.draws - again.evading), again.draws)))
    return tuple(found)
