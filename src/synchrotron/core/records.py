"""Action records: which action ran with which arguments, when, by whom."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from synchrotron.core.clock import (
    CLOCK_READING,
    OrderKey,
    is_order_key,
    order_key,
    timestamp_of,
    to_datetime,
)
from synchrotron.core.ids import (
    ACTION_NUMBER,
    CLIENT_ID,
    SEED,
    ActionId,
    Audience,
    ClientId,
    is_seed,
    split_action_id,
)

VERSION_MAX = 2**31 - 1
_is_of_one_client = re.compile(
    rf"({CLIENT_ID})-{ACTION_NUMBER} {SEED} {CLOCK_READING}-\1 \1"
).fullmatch
"""Id, seed, order key and client id of a record."""


class ActionRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One run of an action. An invalid one cannot be built.

    `args` are JSON values by name. `now` is the moment of the first run and never
    changes; `order_key` may, while the action is pending. `audiences` are those that
    the action declares, `None` where it declares none (A10).
    """

    id: ActionId
    seed: str
    name: str
    version: int
    args: dict[str, Any]
    now: datetime
    order_key: OrderKey
    client_id: ClientId
    user: str
    audiences: tuple[Audience, ...] | None = None

    def __post_init__(self) -> None:
        # All at once: a record is made in every run, and read in every replay.
        ids = f"{self.id} {self.seed} {self.order_key} {self.client_id}"
        if (
            not _is_of_one_client(ids)
            or not 0 < self.version <= VERSION_MAX
            or (self.now.tzinfo is not UTC and self.now.utcoffset() != UTC.utcoffset(None))
        ):
            self._complain()

    def _complain(self) -> None:
        client, _ = split_action_id(self.id)
        if client != self.client_id:
            raise ValueError(f"action id {self.id} is not of client {self.client_id}")
        if not is_seed(self.seed):
            raise ValueError(f"{self.seed!r} is not a seed: 32 lower-case hex digits")
        if not is_order_key(self.order_key) or not self.order_key.endswith(self.client_id):
            raise ValueError(f"{self.order_key!r} is not an order key of client {self.client_id}")
        if self.now.utcoffset() != UTC.utcoffset(None):  # UTC may have no way to spell it
            raise ValueError(f"now, {self.now}, is not a moment in UTC")
        raise ValueError(f"{self.version} is not a version: from 1 to {VERSION_MAX}")

    def moment(self) -> datetime:
        """`ctx.now`: never later than its place in the order (A3)."""
        return min(self.now, to_datetime(timestamp_of(self.order_key).ms))

    def renewed(self, id: ActionId) -> ActionRecord:
        """The same run under another client's id, at the same clock reading (O6)."""
        client, _ = split_action_id(id)
        key = order_key(timestamp_of(self.order_key), client)
        return msgspec.structs.replace(self, id=id, client_id=client, order_key=key)

    def moved(self, key: OrderKey) -> ActionRecord:
        """The same run at another place in the order."""
        return msgspec.structs.replace(self, order_key=key)


encode_record = msgspec.json.Encoder().encode
decode_record = msgspec.json.Decoder(ActionRecord).decode
