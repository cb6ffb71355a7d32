"""The story of a history: what happened, line by line, and a digest of every byte of it."""

from __future__ import annotations

import hashlib
from collections import Counter

from synchrotron.testing.simulation.steps import START_MS, Step


class Story:
    """Lines for people, counts for tables, and the digest that makes one seed one history."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.faults: Counter[str] = Counter()
        """What went wrong on purpose, by kind."""
        self.course: list[tuple[str, bytes]] = []
        """After each thing that was seen: what it was, and the digest up to it."""
        self._hash = hashlib.sha256()
        self._step: Step | None = None
        self._told: int | None = None

    def begin(self, step: Step | None) -> None:
        """What is told from here on belongs to this step; None: to the end, when all sync."""
        self._step = step

    def tell(self, at_ms: int, text: str, fault: str | None = None, *, aside: bool = False) -> None:
        """A line, and which kind of fault it tells of.

        `aside`: it tells by what way things came, which is no part of the digest.
        """
        number = self._step.number if self._step else 0
        label = f"{number}." if number and number != self._told else ""
        self._told = number
        time_s = (at_ms - START_MS) / 1000
        self.lines.append(f"{label:>5} {time_s:9.3f} s  {text}")
        if not aside:
            self._hash.update(f"{at_ms} {text}\n".encode())
        if fault is not None:
            self.faults[fault] += 1

    def saw(self, what: str, content: bytes) -> None:
        """Bytes that were sent or stored: part of the digest, not of what is told."""
        self._hash.update(content)
        self.course.append((f"{what} at line {len(self.lines)}", self._hash.digest()))

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()
