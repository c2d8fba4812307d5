"""The order of samples of a whole run."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """Indices of a whole run: epoch after epoch, each in an order of its own.

    Yields `epoch * samples + i` for datasets whose item depends on (seed, epoch, i). The order is
    a function of (seed, epoch) alone. `count` indices in all.
    """

    def __init__(self, samples: int, count: int, seed: int):
        self.samples, self.count, self.seed = samples, count, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        for epoch in range(math.ceil(self.count / self.samples)):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
            left = self.count - epoch * self.samples
            yield from (epoch * self.samples + order[:left]).tolist()
