"""Writes reviews, trains a classifier on them, attacks its word vectors, and reads what the attack wrote."""

import numpy as np
import torch
from model import BAD, GOOD, LENGTH, WORDS, Text
from safetensors.torch import save_file
from torch import Tensor

import sparring as sp


def reviews(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Words (n, LENGTH) as numbers, and labels: one or two words of praise or blame among neutral ones."""
    neutral = WORDS[: WORDS.index(GOOD[0])]
    rows, labels = [], torch.randint(2, (n,), generator=generator)
    for label in labels.tolist():
        row = torch.randint(len(neutral), (LENGTH,), generator=generator)
        telling = (BAD, GOOD)[label]
        for _ in range(1 + int(torch.randint(2, (), generator=generator))):
            place = int(torch.randint(LENGTH, (), generator=generator))
            row[place] = WORDS.index(telling[int(torch.randint(len(telling), (), generator=generator))])
        rows.append(row)
    return torch.stack(rows), labels


def trained(words: Tensor, labels: Tensor) -> Text:
    """The classifier after two hundred steps."""
    model = Text()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(200):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(words), labels).backward()
        optimiser.step()
    return model.eval()


def nearest_words(model: Text, vectors: Tensor) -> Tensor:
    """The words (N, LENGTH) whose vectors lie nearest: what a reader would have to be shown."""
    table = torch.sigmoid(model.table.weight)
    return torch.cdist(vectors[:, 0].flatten(0, 1), table).argmin(1).view(len(vectors), -1)


def make(eps: float = 0.1) -> dict[str, float]:
    """weights.safetensors and reviews.npz; and shares of test reviews, in vectors and in words."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = trained(*reviews(600, generator))
    words, labels = reviews(200, generator)
    vectors = model.embedded(words).detach()
    save_file(model.reader.state_dict(), "weights.safetensors")
    np.savez("reviews.npz", images=vectors.numpy(), labels=labels.numpy())
    threat = sp.ThreatModel("linf", eps)
    found = sp.attacks.PGD(steps=20)(model.reader, vectors, sp.Untargeted(labels), threat)
    read = nearest_words(model, found)
    return {
        "right": float((model(words).argmax(1) == labels).float().mean()),
        "right after the attack on vectors": float((model.reader(found).argmax(1) == labels).float().mean()),
        "words that became another word": float((read != words).float().mean()),
        "right after reading the attack as words": float((model(read).argmax(1) == labels).float().mean()),
    }


if __name__ == "__main__":
    for name, share in make().items():
        print(f"{100 * share:5.1f} %  {name}")  # noqa: T201
