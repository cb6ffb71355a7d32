"""Dice: all the chance in a simulation, from its seed.

Each step of a history throws dice of its own. So leaving one step out, which is how a
failure is shrunk, leaves the luck of the others as it was.
"""

from __future__ import annotations

from synchrotron.core.ids import SeededRandom


class Dice(SeededRandom):
    """Random numbers that depend on these words alone, on every Python."""

    def __init__(self, *words: object) -> None:
        super().__init__(" ".join(map(str, words)))

    def chance(self, probability: float) -> bool:
        return self.random() < probability
