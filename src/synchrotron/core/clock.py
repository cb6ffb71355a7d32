"""Order keys: the one total order of all actions.

An order key is a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks",
OPODIS 2014; 48 bits of milliseconds, 16 bits of counter) and a client id, as one
string that sorts as text: `0192f1a2b3c4-0001-<client id>`. The comparison of such
strings is the only one there is; SQLite and PostgreSQL (COLLATE "C") sort them alike.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NewType

from synchrotron.core.ids import CLIENT_ID, ClientId

OrderKey = NewType("OrderKey", str)

CLOCK_READING = r"[0-9a-f]{12}-[0-9a-f]{4}"
ORDER_KEY = rf"{CLOCK_READING}-{CLIENT_ID}"
_order_key = re.compile(ORDER_KEY)
MILLISECONDS_MAX = 2**48 - 1
COUNTER_MAX = 2**16 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = OrderKey("")
"""Sorts before every order key."""


class Timestamp(NamedTuple):
    """A reading of the hybrid logical clock."""

    ms: int
    counter: int


def order_key(at: Timestamp, client: ClientId) -> OrderKey:
    ms, counter = at
    return OrderKey(f"{ms:012x}-{counter:04x}-{client}")


def is_order_key(text: str) -> bool:
    return _order_key.fullmatch(text) is not None


def timestamp_of(key: OrderKey) -> Timestamp:
    """The clock reading in an order key; (0, 0) for `FIRST`."""
    return Timestamp(int(key[:12], 16), int(key[13:17], 16)) if key else Timestamp(0, 0)


def tick(now_ms: int, known: Timestamp) -> Timestamp:
    """The next reading: above everything known (O1), at the wall clock where that is later.

    A counter that would overflow moves the milliseconds on (O3).
    """
    if now_ms > known.ms:
        return Timestamp(now_ms, 0)
    if known.counter < COUNTER_MAX:
        return Timestamp(known.ms, known.counter + 1)
    return Timestamp(known.ms + 1, 0)


def to_datetime(ms: int) -> datetime:
    """Milliseconds since the epoch as an aware UTC datetime."""
    # By name, timedelta reckons in floats first; and whole days of microseconds take it long.
    return EPOCH + timedelta(0, ms // 1000, ms % 1000 * 1000)


def span(ms: int) -> str:
    """A length of time in words: `3.2 s`, `5 min`, `26 h`, `3 days`."""
    for unit, size in (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= 2 * size:
            return f"{ms / size:.0f} {unit}"
    return f"{ms / 1000:.1f} s"


def to_ms(moment: datetime) -> int:
    """Whole milliseconds since the epoch, rounded down."""
    return (moment - EPOCH) // timedelta(milliseconds=1)
