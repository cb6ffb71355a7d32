"""Order keys: the clock rises, and text order is the order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchrotron.core.clock import (
    COUNTER_MAX,
    FIRST,
    MILLISECONDS_MAX,
    Timestamp,
    is_order_key,
    order_key,
    span,
    tick,
    timestamp_of,
    to_datetime,
    to_ms,
)
from synchrotron.core.ids import ClientId

CLIENT = ClientId("0123456789abcdef01234567")
CLIENTS = st.text("0123456789abcdef", min_size=24, max_size=24).map(ClientId)
TIMESTAMPS = st.builds(Timestamp, st.integers(0, MILLISECONDS_MAX), st.integers(0, COUNTER_MAX))


def test_an_order_key_is_48_and_16_bits_in_hex_and_the_client() -> None:
    key = order_key(Timestamp(0x0192F1A2B3C4, 1), CLIENT)
    assert key == "0192f1a2b3c4-0001-0123456789abcdef01234567"
    assert is_order_key(key)
    assert timestamp_of(key) == (0x0192F1A2B3C4, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0192f1a2b3c4-0001",
        "0192F1A2B3C4-0001-0123456789abcdef01234567",
        "0192f1a2b3c4-0001-0123456789abcdef0123456",
        "0192f1a2b3c4-0001-0123456789abcdef012345678",
        "0192f1a2b3c4_0001_0123456789abcdef01234567",
        "0192f1a2b3c4-0001-0123456789abcdef01234567\n",
        "\u0660192f1a2b3c4-0001-0123456789abcdef01234567",
    ],
)
def test_nothing_else_is_an_order_key(text: str) -> None:
    assert not is_order_key(text)


@given(st.lists(st.tuples(TIMESTAMPS, CLIENTS), min_size=2, max_size=8))
def test_keys_sort_as_text_as_clock_and_client_sort(
    pairs: list[tuple[Timestamp, ClientId]],
) -> None:
    keys = [order_key(*pair) for pair in sorted(pairs)]
    assert keys == sorted(keys)
    assert all(key > FIRST for key in keys)
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE keys (key TEXT)")
    db.executemany("INSERT INTO keys VALUES (?)", [(key,) for key in reversed(keys)])
    assert [key for (key,) in db.execute("SELECT key FROM keys ORDER BY key")] == keys


@given(TIMESTAMPS, CLIENTS)
def test_a_key_gives_its_clock_reading_back(at: Timestamp, client: ClientId) -> None:
    assert timestamp_of(order_key(at, client)) == at
    assert is_order_key(order_key(at, client))


def test_before_the_first_key_the_clock_reads_nothing() -> None:
    assert timestamp_of(FIRST) == (0, 0)
    assert tick(5, timestamp_of(FIRST)) == (5, 0)


@pytest.mark.spec("O1")
@given(st.integers(0, MILLISECONDS_MAX - 1), st.builds(
    Timestamp, st.integers(0, MILLISECONDS_MAX - 1), st.integers(0, COUNTER_MAX)
))  # fmt: skip
def test_the_next_reading_is_above_all_known_and_not_behind_the_wall(
    now_ms: int, known: Timestamp
) -> None:
    following = tick(now_ms, known)
    assert following > known
    assert following.ms >= now_ms
    assert 0 <= following.counter <= COUNTER_MAX
    assert following.ms <= max(now_ms, known.ms + 1), "it runs ahead no further than it must"
    assert order_key(following, CLIENT) > order_key(known, ClientId("f" * 24))


@pytest.mark.spec("O1")
@given(st.lists(st.integers(0, 2**40), max_size=20))
def test_readings_rise_whatever_the_wall_clock_does(walls: list[int]) -> None:
    at = Timestamp(0, 0)
    keys = [order_key(at := tick(now_ms, at), CLIENT) for now_ms in walls]
    assert keys == sorted(set(keys))


def test_the_clock_follows_the_wall_where_that_is_ahead() -> None:
    assert tick(1000, Timestamp(999, 7)) == (1000, 0)
    assert tick(1000, Timestamp(1000, 7)) == (1000, 8)
    assert tick(1000, Timestamp(5000, 0)) == (5000, 1)


@pytest.mark.spec("O3")
def test_a_counter_that_would_overflow_moves_the_milliseconds_on() -> None:
    assert tick(1000, Timestamp(1000, COUNTER_MAX - 1)) == (1000, COUNTER_MAX)
    assert tick(1000, Timestamp(1000, COUNTER_MAX)) == (1001, 0)
    assert tick(1000, Timestamp(9000, COUNTER_MAX)) == (9001, 0)


@given(st.integers(0, 253402300799999))  # up to the end of year 9999
def test_milliseconds_and_moments_are_the_same_thing(ms: int) -> None:
    moment = to_datetime(ms)
    assert moment.tzinfo is UTC
    assert to_ms(moment) == ms
    assert to_ms(moment + timedelta(microseconds=999)) == ms, "rounded down"
    if ms > 10**8:
        assert to_ms(moment.astimezone(timezone(timedelta(hours=-7)))) == ms


def test_moments_before_the_epoch_are_rounded_down_as_well() -> None:
    assert to_ms(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1


@pytest.mark.parametrize(
    ("ms", "words"),
    [(0, "0.0 s"), (3_249, "3.2 s"), (119_000, "119.0 s"), (120_000, "2 min"),
     (5_400_000, "90 min"), (7_200_000, "2 h"), (86_400_000, "24 h"), (172_800_000, "2 days"),
     (10**10, "116 days")],
)  # fmt: skip
def test_a_length_of_time_is_told_in_the_largest_unit_of_which_there_are_two(
    ms: int, words: str
) -> None:
    assert span(ms) == words
