"""Shrinking: fewest steps that still break the same rule.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", 2002): leave out ever smaller parts, as long as the failure stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrink(items: Sequence[T], fails: Callable[[Sequence[T]], bool], tries_max: int) -> list[T]:
    """A smaller list for which `fails` holds as well; it is asked `tries_max` times at most."""
    kept, parts, tries = list(items), 2, 0
    while kept and tries < tries_max:
        size = max(1, len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            tries += 1
            if fails(rest):
                kept, parts = rest, max(2, parts - 1)
                break
            if tries == tries_max:
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), parts * 2)
    return kept
