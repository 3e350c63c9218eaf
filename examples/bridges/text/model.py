"""A small classifier of short reviews that takes word vectors instead of words: (N, 1, LENGTH, SIZE) in [0, 1]."""

import torch
from torch import Tensor, nn

LENGTH, SIZE = 8, 12
WORDS = (
    *("the", "a", "this", "film", "plot", "cast", "was", "is", "and", "very", "quite", "so", "really", "it", "."),
    *("good", "great", "lovely", "bright", "moving", "clever", "warm", "superb", "bad", "poor", "dull", "weak"),
    *("boring", "clumsy", "cold", "awful"),
)
GOOD, BAD = WORDS[15:23], WORDS[23:]


class Reader(nn.Module):
    """What follows the embedding: a layer per word, the mean over words, two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Linear(SIZE, 16)
        self.verdict = nn.Linear(16, 2)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (N, 2) of word vectors (N, 1, LENGTH, SIZE)."""
        verdict: Tensor = self.verdict(torch.relu(self.words(2 * vectors[:, 0] - 1)).mean(1))
        return verdict


class Text(nn.Module):
    """Words, as numbers (N, LENGTH), to logits; `embedded` gives the vectors in between, in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(WORDS), SIZE)
        self.reader = Reader()

    def embedded(self, words: Tensor) -> Tensor:
        """Vectors (N, 1, LENGTH, SIZE)."""
        return torch.sigmoid(self.table(words))[:, None]

    def forward(self, words: Tensor) -> Tensor:
        """Logits (N, 2)."""
        logits: Tensor = self.reader(self.embedded(words))
        return logits
