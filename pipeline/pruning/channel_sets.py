"""Sets of channels that are removed together, for channel pruning."""

from __future__ import annotations

import numpy as np


class ChannelSets:
    """Numbers of channels, and which of them must be removed together or cannot be removed.

    A disjoint-set forest; the smallest number of a set stands for it.
    """

    def __init__(self) -> None:
        self.parents: list[int] = []
        self.reasons: dict[int, str] = {}  # of sets that stay: by number, what ties them

    def new(self, number: int) -> np.ndarray:
        """Numbers of new channels, int (number,)."""
        first = len(self.parents)
        self.parents.extend(range(first, first + number))
        return np.arange(first, first + number)

    def root(self, channel: int) -> int:
        """The number that stands for a channel's set."""
        while self.parents[channel] != channel:
            self.parents[channel] = self.parents[self.parents[channel]]
            channel = self.parents[channel]
        return channel

    def roots(self) -> np.ndarray:
        """The number that stands for the set of each channel, int (all channels,)."""
        return np.array([self.root(channel) for channel in range(len(self.parents))], int)

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Makes pairs of channels one set each."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            if low != high:
                self.parents[high] = low
                if high in self.reasons:
                    self.reasons.setdefault(low, self.reasons.pop(high))

    def tie(self, channels: np.ndarray, reason: str) -> None:
        """Makes channels stay; the first reason counts."""
        for channel in np.unique(channels).tolist():
            self.reasons.setdefault(self.root(channel), reason)

    def reason(self, channel: int) -> str | None:
        """What makes a channel stay; None if it can be removed."""
        return self.reasons.get(self.root(channel))
