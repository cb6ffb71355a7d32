"""Which database file is asking, and whether it asked before (O5, O6, H9).

A file's requests are numbered and carry random tokens. The server keeps the newest of
each client: a request that does not know it comes from a copy of the file, or from a
file that was put back to an older state. Client ids belong to users, for ever; which n
of a client were accepted is remembered for ever too, as ranges.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from synchrotron.core.messages import Exchange

NEW = -1
"""The number of a client that has not asked for anything yet."""


class Client(NamedTuple):
    """What the server keeps of a client."""

    user: str
    number: int
    """Of its newest request."""
    token: str
    bounces: int = 0
    """How often its uploads were `behind`, in a row (H3)."""
    accepted: tuple[range, ...] = ()

    def recognise(self, exchange: Exchange) -> Literal["next", "duplicate", "copy"]:
        """What a request is, by the newest one that was seen before it."""
        if self.number == NEW:
            return "next"
        if self.token not in (exchange.token, *exchange.earlier):
            return "copy"
        if exchange.number <= self.number or exchange.token == self.token:
            return "duplicate"
        return "next"

    def accepted_n(self, n: int) -> bool:
        return any(n in ns for ns in self.accepted)

    def with_accepted(self, n: int) -> Client:
        return self._replace(accepted=_joined(self.accepted, n))


def _joined(ranges: tuple[range, ...], n: int) -> tuple[range, ...]:
    """Ranges, in order and apart, with one more number in them."""
    below = [r for r in ranges if r.stop < n]
    above = [r for r in ranges if r.start > n + 1]
    near = [r for r in ranges if n <= r.stop and r.start <= n + 1]
    start = min([n, *(r.start for r in near)])
    stop = max([n + 1, *(r.stop for r in near)])
    return (*below, range(start, stop), *above)
