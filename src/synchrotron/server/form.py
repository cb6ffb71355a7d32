"""The form of requests and patches: what protocol and table prescribe, whatever the rights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

from synchrotron.app.schema import Column, Schema, Table
from synchrotron.app.types import ColumnType, column_type, formless_text
from synchrotron.core.canonical import canonical, check_form, text_of
from synchrotron.core.messages import (
    PROTOCOL,
    Offer,
    RowPatch,
    SentAction,
    SentCorrection,
    SyncRequest,
)
from synchrotron.core.records import ActionRecord
from synchrotron.errors import ProtocolError


def offers_of(request: SyncRequest) -> list[Offer]:
    return [Offer(s.record.id, s.record.seed, s.formerly) for s in request.actions]


def require_protocol(protocol: int) -> None:
    """Raises `ProtocolError`."""
    if protocol != PROTOCOL:
        raise ProtocolError(
            f"the replica speaks protocol {protocol} and this server {PROTOCOL}: upgrade the older"
        )


def require_order(actions: Sequence[SentAction]) -> None:
    """The actions of an upload come in order, each once (H1). Raises `ProtocolError`."""
    records = [sent.record for sent in actions]
    for one, next in pairwise(records):
        if next.order_key <= one.order_key:
            raise ProtocolError(f"{next.id} is sent after {one.id}, but not ordered after it")
    if len({record.id for record in records}) < len(records):
        raise ProtocolError("an action is sent twice in one upload")


def require_single(corrections: Sequence[SentCorrection]) -> None:
    """An upload corrects a patch once. Raises `ProtocolError`."""
    # Their form is not judged yet: a key may hold anything.
    places = {
        (c.action_id, c.patch.table, repr(c.patch.key), c.patch.audience) for c in corrections
    }
    if len(places) < len(corrections):
        raise ProtocolError("a patch is corrected twice in one upload")


INDEXED_BYTES_MAX = 2_000
"""Keys and audiences are indexed, and an entry of PostgreSQL's indexes holds 2,704 bytes."""


VERSIONS = range(-(2**31), 2**31)
"""What a column of PostgreSQL's type integer holds."""
ESCAPED_BYTES_MAX = 6
"""Of one character in JSON."""
ANY_TEXT = column_type("TEXT")


class Form:
    """Judges patches by an application's schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._columns = {t.name: {c.name: c for c in t.columns} for t in schema.tables.values()}
        self._judges = {
            name: {c.name: _judge(c) for c in columns.values()}
            for name, columns in self._columns.items()
        }
        """Of each column: what is wrong with a value that is not NULL, as it travels."""
        self._texts = {
            name: frozenset(c.name for c in columns.values() if c.type == ANY_TEXT)
            for name, columns in self._columns.items()
        }

    def fault(self, sent: RowPatch) -> str | None:
        """What keeps a patch from being one of its table's, if anything does."""
        return None if self._is_plainly_right(sent) else self.complaint(sent)

    def _is_plainly_right(self, sent: RowPatch) -> bool:
        """Whether nothing can be wrong with a patch, as is seen at a glance of nearly all.

        It says no in doubt. For an upload of a thousand this takes half of the time that
        `complaint` does.
        """
        texts, values = self._texts.get(sent.table), sent.values
        if texts is None or values is None or not _is_plain_text(sent.audience):
            return False
        judges, columns = self._judges[sent.table], self.schema.tables[sent.table].key
        for name, value in values.items():
            # Most are plain texts: those are told here, without a call for each.
            if name in texts and type(value) is str and value.isascii() and "\0" not in value:
                continue
            if name not in judges or (value is not None and judges[name](value) is not None):
                return False
        if len(sent.key) != len(columns):
            return False
        is_insert = sent.op == "insert"
        room = INDEXED_BYTES_MAX // ESCAPED_BYTES_MAX - len(sent.audience)
        for name, value in zip(columns, sent.key, strict=True):
            if name not in texts or not _is_plain_text(value):
                return False
            if values.get(name) != value if is_insert else name in values:
                return False
            room -= len(value) + len('"",')
        return room > 0

    def complaint(self, sent: RowPatch) -> str | None:
        """The same, with all that there is to look at."""
        table = self.schema.tables.get(sent.table)
        if table is None:
            return f"{sent.table} is not a table of this application"
        if complaint := audience_fault(sent.audience):
            return f"its audience {complaint}"
        return (
            self.key_fault(table, sent.key) or _size_fault(sent) or self._values_fault(table, sent)
        )

    @staticmethod
    def records_fit(records: Sequence[ActionRecord]) -> bool:
        """Whether all of these can be stored: in one go, since nearly always they can."""
        declared = {audience for record in records for audience in record.audiences or ()}
        return (
            has_form([_told_by(record) for record in records])
            and all(record.version in VERSIONS for record in records)
            and not any(map(audience_fault, declared))
        )

    @staticmethod
    def record_fault(record: ActionRecord) -> str | None:
        """What keeps a record from being stored, if anything does."""
        try:
            canonical(_told_by(record))
        except ValueError as error:
            return f"its record: {error}"
        for audience in record.audiences or ():
            if fault := audience_fault(audience):
                return f"an audience that it declares {fault}"
        if record.version not in VERSIONS:
            return "its version does not fit in 32 bits"
        return None

    def key_fault(self, table: Table, key: list[Any]) -> str | None:
        """What keeps a key from being one of this table's, if anything does."""
        if len(key) != len(table.key):
            return f"its key has other columns: {', '.join(table.key)}"
        columns = self._columns[table.name]
        for name, value in zip(table.key, key, strict=True):
            if fault := _key_value_fault(columns[name], value):
                return f"table {table.name}, column {name}: {fault}"
        return None

    def _values_fault(self, table: Table, sent: RowPatch) -> str | None:
        values = sent.values or {}
        if not values.keys() <= self._columns[table.name].keys():
            unknown = min(values.keys() - self._columns[table.name].keys())
            return f"table {table.name} has no column {unknown} that could be written"
        judges = self._judges[table.name]
        for name, value in values.items():
            if value is None or judges[name](value) is None:
                continue
            try:
                table.check_values({name: value})
            except ValueError as error:
                return str(error)
        if sent.op == "insert" and [values.get(name) for name in table.key] != sent.key:
            return "an insert holds the values of its key"
        if sent.op == "update" and not values.keys().isdisjoint(table.key):
            return "an update does not change a key: delete the row and insert another"
        return None


def has_form(value: Any) -> bool:
    """Whether a value can be stored: it has a canonical text."""
    try:
        check_form(value)
    except ValueError:
        return False
    return True


def audience_fault(audience: str) -> str | None:
    """What keeps a text from being an audience, if anything does."""
    if complaint := formless_text(audience):
        return complaint
    size = len(audience.encode())
    if size <= INDEXED_BYTES_MAX:
        return None
    return f"takes {size:,} bytes, and no more than {INDEXED_BYTES_MAX:,} can be indexed"


def _is_plain_text(value: object) -> TypeGuard[str]:
    return type(value) is str and value.isascii() and "\0" not in value


def _told_by(record: ActionRecord) -> list[Any]:
    """What a replica may say freely in a record: the rest has been read by its form."""
    return [record.name, record.args, record.audiences or ()]


def _judge(column: Column) -> Callable[[Any], str | None]:
    if _is_plain(column):
        return column.type.check
    from_wire = column.type.from_wire

    def judge(value: Any) -> str | None:
        try:
            from_wire(value)
        except ValueError as error:
            return str(error)
        return None

    return judge


def _is_plain(column: Column) -> bool:
    kind = type(column.type)
    return kind.to_wire is ColumnType.to_wire and kind.from_wire is ColumnType.from_wire


def _size_fault(sent: RowPatch) -> str | None:
    rough = len(sent.audience) + sum([len(v) if isinstance(v, str) else 50 for v in sent.key])
    if rough * ESCAPED_BYTES_MAX <= INDEXED_BYTES_MAX // 2:
        return None
    size = len(text_of([sent.key, sent.audience]).encode())  # both are known to have a form
    if size <= INDEXED_BYTES_MAX:
        return None
    return (
        f"its key and audience take {size:,} bytes, and no more than {INDEXED_BYTES_MAX:,} can be "
        "indexed: use a short key, such as ctx.new_id, and keep the text in another column"
    )


def _key_value_fault(column: Column, value: object) -> str | None:
    """What is wrong with a value of a key. It has one spelling, or two keys would be one row."""
    if value is None:
        return "a key has no NULL"
    try:
        wire = column.type.to_wire(column.type.from_wire(value))
        # `==` takes 1, 1.0 and True for one; of keys no type is a list or an object.
        is_same = type(wire) is type(value) and wire == value
        return None if is_same else f"it is written {canonical(wire)}"
    except ValueError as error:
        return str(error)
