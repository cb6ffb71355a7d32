"""Steps: a history as data, drawn before it is played.

A step has its own moment and its own dice, so that it does the same, as far as it can,
when other steps are left out.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from synchrotron.testing.simulation.climate import Climate
from synchrotron.testing.simulation.dice import Dice

START_MS = 1_777_712_400_000
"""2 May 2026, 9:00 UTC."""
GAPS_MS = (0, 1, 1, 3, 10, 30, 30, 100, 400, 900)
LONG_GAP_MS = 35_000
"""Longer than a lease lasts."""


class Step(NamedTuple):
    """One step of a history."""

    number: int
    at_ms: int
    kind: str
    who: int


def draw_steps(dice: Dice, climate: Climate, count: int) -> list[Step]:
    """So many steps; two of three run an action."""
    others = count // 3
    bounds = list(accumulate(climate.weights.values()))
    kinds = ["act"] * (count - others)
    kinds += dice.choices(list(climate.weights), cum_weights=bounds, k=others)
    dice.shuffle(kinds)
    steps, now_ms = [], START_MS
    for number, kind in enumerate(kinds, 1):
        now_ms += LONG_GAP_MS if dice.chance(0.01) else dice.choice(GAPS_MS)
        steps.append(Step(number, now_ms, kind, dice.randrange(1 << 16)))
    return steps
