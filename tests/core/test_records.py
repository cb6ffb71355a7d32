"""Action records: an invalid one cannot be built."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from synchrotron.core.clock import OrderKey, Timestamp, order_key, to_datetime
from synchrotron.core.ids import ActionId, ClientId
from synchrotron.core.records import ActionRecord, decode_record, encode_record

CLIENT = ClientId("0123456789abcdef01234567")
OTHER = ClientId("f" * 24)
MS = 1_700_000_000_000


def record(**changes: Any) -> ActionRecord:
    fields: dict[str, Any] = {
        "id": ActionId(f"{CLIENT}-1"),
        "seed": "00112233445566778899aabbccddeeff",
        "name": "buy",
        "version": 1,
        "args": {"n": 1, "price": 1.0, "note": None},
        "now": to_datetime(MS),
        "order_key": order_key(Timestamp(MS, 0), CLIENT),
        "client_id": CLIENT,
        "user": "alice",
        "audiences": ("shop:1",),
    }
    return ActionRecord(**fields | changes)


INVALID = [
    {"id": "nonsense"},
    {"id": f"{CLIENT}-0"},
    {"id": f"{OTHER}-1"},
    {"client_id": OTHER},
    {"order_key": ""},
    {"order_key": order_key(Timestamp(MS, 0), OTHER)},
    {"order_key": order_key(Timestamp(MS, 0), CLIENT).upper()},
    {"order_key": "x" + CLIENT},
    {"seed": ""},
    {"seed": "00112233445566778899AABBCCDDEEFF"},
    {"seed": "00"},
    {"now": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-5)))},
]


@pytest.mark.parametrize("changes", INVALID, ids=str)
def test_an_invalid_record_cannot_be_built(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not an? |not of client"):
        record(**changes)


@pytest.mark.parametrize("changes", INVALID, ids=str)
def test_an_invalid_record_cannot_be_decoded(changes: dict[str, Any]) -> None:
    fields = msgspec.json.decode(encode_record(record())) | changes
    with pytest.raises(msgspec.ValidationError):
        decode_record(msgspec.json.encode(fields))


def test_a_record_survives_its_encoding() -> None:
    for one in (record(), record(audiences=None), record(audiences=()), record(args={})):
        again = decode_record(encode_record(one))
        assert again == one
        assert encode_record(again) == encode_record(one), "1 and 1.0 stay apart"


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        record().user = "mallory"  # type: ignore[misc]


@pytest.mark.spec("A3")
def test_now_is_the_moment_of_the_first_run_but_not_later_than_the_place_in_the_order() -> None:
    first = to_datetime(MS)
    assert record().moment() == first
    later, earlier = (order_key(Timestamp(MS + d, 3), CLIENT) for d in (5, -5))
    assert record(order_key=later).moment() == first
    assert record(order_key=earlier).moment() == first - timedelta(milliseconds=5)
    assert record().moment().tzinfo == UTC


@pytest.mark.spec("O5")
def test_a_moved_record_keeps_all_but_its_place() -> None:
    key = order_key(Timestamp(MS + 9, 0), CLIENT)
    assert record().moved(key) == record(order_key=key)
    with pytest.raises(ValueError, match="not an order key"):
        record().moved(OrderKey("0"))


@pytest.mark.spec("O6")
def test_a_renewed_record_keeps_its_seed_moment_and_clock_reading() -> None:
    renewed = record().renewed(ActionId(f"{OTHER}-7"))
    assert renewed == record(
        id=ActionId(f"{OTHER}-7"),
        client_id=OTHER,
        order_key=order_key(Timestamp(MS, 0), OTHER),
    )


def test_a_moment_without_time_zone_is_refused() -> None:
    fields = msgspec.json.decode(encode_record(record()))
    naive = fields | {"now": datetime(2026, 1, 2).isoformat()}
    with pytest.raises((msgspec.ValidationError, ValueError)):
        decode_record(msgspec.json.encode(naive))
