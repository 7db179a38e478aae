# SPDX-License-Identifier: MIT
"""The figures of all rounds."""

from __future__ import annotations

import statistics
from collections import defaultdict


class Results:
    """All that clients have said, by measure, contestant and figure."""

    def __init__(self) -> None:
        """Have no figures yet."""
        self._samples: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def add(self, measure: str, contestant: str, figures: dict[str, float]) -> None:
        """Add a client's figures."""
        for name, value in figures.items():
            self._samples[measure, contestant, name].append(value)

    def has(self, measure: str, contestant: str, figure: str) -> bool:
        """Whether there is such a figure."""
        return (measure, contestant, figure) in self._samples

    def samples(
        self, measure: str, contestant: str, figure: str = "seconds"
    ) -> list[float]:
        """Return one figure each time it was taken; KeyError if there is none."""
        if not self.has(measure, contestant, figure):
            raise KeyError(measure, contestant, figure)
        return self._samples[measure, contestant, figure]

    def median(self, measure: str, contestant: str, figure: str = "seconds") -> float:
        """Return the median of one figure."""
        return statistics.median(self.samples(measure, contestant, figure))

    def ratio(
        self, measure: str, contestant: str, base: str, figure: str = "seconds"
    ) -> float:
        """Return how many times ``base``'s median ``contestant``'s is."""
        return self.median(measure, contestant, figure) / self.median(
            measure, base, figure
        )
