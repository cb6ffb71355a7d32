"""How long to wait before trying again: longer each time, and never all at once.

With jitter (Brooker, "Exponential Backoff And Jitter", 2015) replicas that lost their
server together come back spread out. No retry library: it would repeat a call, and here
nothing is repeated; a loop that may be woken asks how long to sleep.
"""

from __future__ import annotations

from random import Random

FIRST_S = 0.5
LAST_S = 60.0


class Backoff:
    """Waiting times that double, each between half of itself and the whole."""

    def __init__(self, dice: Random, first_s: float = FIRST_S, last_s: float = LAST_S) -> None:
        self._dice = dice
        self._first_s = first_s
        self._last_s = last_s
        self.failures = 0

    def next_s(self) -> float:
        """How long to wait after one more failure."""
        longest_s = min(self._last_s, self._first_s * 2.0 ** min(self.failures, 60))
        self.failures += 1
        return longest_s * (0.5 + self._dice.random() / 2)

    def reset(self) -> None:
        self.failures = 0
