"""Virtual time and a virtual network: a queue of what is due, and when."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

Due = Callable[[], None]


class Network:
    """Delivers in the order in which things are due; what is due at once, as it was sent."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self._queue: list[tuple[int, int, Due]] = []
        self._sent = 0

    def clock(self) -> int:
        """Milliseconds since the epoch."""
        return self.now_ms

    def post(self, delay_ms: int, due: Due) -> None:
        self._sent += 1
        heappush(self._queue, (self.now_ms + delay_ms, self._sent, due))

    def run_until(self, end_ms: int) -> None:
        """Let time pass, and everything that is due meanwhile happen."""
        while self._queue and self._queue[0][0] <= end_ms:
            at_ms, _, due = heappop(self._queue)
            self.now_ms = max(self.now_ms, at_ms)
            due()
        self.now_ms = max(self.now_ms, end_ms)

    def run_all(self) -> None:
        """Let everything happen that is on its way."""
        while self._queue:
            self.run_until(self._queue[0][0])
