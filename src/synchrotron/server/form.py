"""The form of requests and patches: what protocol and table prescribe, whatever the rights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

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

    def in_doubt(self, patches: Iterable[RowPatch]) -> list[RowPatch]:
        """Those of some patches with which anything may be wrong, as is seen at a glance.

        Nearly all are alike and right: together, column by column, they take a quarter of the
        time that `fault` needs for each.
        """
        doubtful: list[RowPatch] = []
        alike: dict[tuple[str, str | None, tuple[str, ...]], list[RowPatch]] = defaultdict(list)
        for sent in patches:
            if sent.values is None:
                doubtful.append(sent)
            else:
                alike[sent.table, sent.op, tuple(sent.values)].append(sent)
        for (table, op, names), some in alike.items():
            if not self._are_right(table, op, names, some):
                doubtful += some
        return doubtful

    def _are_right(
        self, table: str, op: str | None, names: tuple[str, ...], patches: Sequence[RowPatch]
    ) -> bool:
        """Whether nothing can be wrong with patches that write the same columns of one table."""
        texts = self._texts.get(table)
        audiences = {sent.audience for sent in patches}
        if texts is None or not _are_plain_texts(list(audiences)):
            return False
        judges, key = self._judges[table], self.schema.tables[table].key
        rows = [(sent.values or {}).values() for sent in patches]
        values = dict(zip(names, zip(*rows, strict=True), strict=bool(names)))
        for name, column in values.items():
            if name in texts and _are_plain_texts(column):
                continue
            judge = judges.get(name)
            if judge is None or any(v is not None and judge(v) is not None for v in column):
                return False
        if {len(sent.key) for sent in patches} != {len(key)}:
            return False
        longest = max(map(len, audiences))
        keys = zip(*[sent.key for sent in patches], strict=True)
        for name, column in zip(key, keys, strict=True):
            if name not in texts or not _are_plain_texts(column):
                return False
            if values.get(name) != column if op == "insert" else name in values:
                return False
            longest += max(map(len, column)) + len('"",')
        return longest * ESCAPED_BYTES_MAX < INDEXED_BYTES_MAX

    def fault(self, sent: RowPatch) -> str | None:
        """What keeps a patch from being one of its table's, if anything does."""
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


def _are_plain_texts(values: Sequence[Any]) -> bool:
    """Whether all of these can be stored as they are, as ASCII can without a NUL."""
    if set(map(type, values)) != {str}:
        return False
    joined = "".join(values)
    return joined.isascii() and "\0" not in joined


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
