"""Footprints: what a run rests on besides its record, told by table (S2).

A run that is repeated comes out the same as long as nothing that it looked at is another. What
it looked at is told by its statements: each was compiled under an authorizer, which saw every
table that it reads. So this is known before a row is read, also of rows that were *not* there:
a predicate is over a table, and whoever changes any row of it may change what it gives.

A plain INSERT looks at no other row of its table, nor does an UPDATE or DELETE by a whole key
that finds its row; and the row that they write is told by capture. Everything else that SQLite
looks at by itself is added here: the rows on either side of a foreign key, along which deletes
and updates cascade, and those that a UNIQUE value may clash with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import apsw

from synchrotron.app import ddl
from synchrotron.app.schema import Table

Tables = frozenset[str]
NOTHING: Tables = frozenset()
_CHOOSING = frozenset({"OR", "REPLACE", "CONFLICT", "RETURNING"})
"""What makes of an INSERT one that looks at the rows which are there."""
_SEVERAL = _CHOOSING | {"IN", "SELECT", "WITH", "LIMIT"}


class Footprints:
    """What statements on these tables rest on."""

    def __init__(self, connection: apsw.Connection, tables: Mapping[str, Table]) -> None:
        self._connection = connection
        self._tables = frozenset(tables)
        self._search_by_key = {
            name: f"SEARCH {name} USING PRIMARY KEY ({' AND '.join(f'{c}=?' for c in table.key)})"
            for name, table in tables.items()
        }
        self.unique = frozenset(name for name in tables if _has_unique_values(connection, name))
        self._parents = {
            name: frozenset(key.parent for key in table.foreign_keys)
            for name, table in tables.items()
        }
        self._children = {
            name: frozenset(child for child, of in self._parents.items() if name in of)
            for name in tables
        }

    def by_key(self, text: str, bindings: Any, writes: Tables) -> bool:
        """Whether a statement changes the row with the key that it gives, and looks at no other.

        So it is as long as it finds that row: which key it gave in vain, nobody knows later.
        """
        words = [token.word for token in ddl.tokens_of(text)]
        if words[:1] not in (["UPDATE"], ["DELETE"]) or len(writes) != 1:
            return False
        # Of several keys, one may be found; and another's row may say which key it is.
        if not _SEVERAL.isdisjoint(words) or words.count("FROM") != (words[0] == "DELETE"):
            return False
        (name,) = writes
        if name not in self._tables or name in self._parents[name]:
            return False  # a row that points to its own table looks at another there
        plan = self._connection.execute(f"EXPLAIN QUERY PLAN {text}", bindings).fetchall()
        return [step[3] for step in plan] == [self._search_by_key[name]]

    def of(self, text: str, reads: Tables, writes: Tables, *, by_key: bool) -> Tables:
        """The tables of which any row may decide what a statement does."""
        if by_key:
            return ((reads - writes) | (writes & self.unique)) & self._tables
        written = writes & self._tables
        if _is_plain_insert(text):
            looked_at = reads | (written & self.unique)
        else:
            written = self._with_descendants(written)
            looked_at = reads | written
        return (looked_at | self._related(written)) & self._tables

    def _related(self, tables: Iterable[str]) -> Tables:
        return NOTHING.union(*(self._parents[name] | self._children[name] for name in tables))

    def _with_descendants(self, tables: Tables) -> Tables:
        """These tables, and all into which a change of them may cascade."""
        while not (more := NOTHING.union(*map(self._children.__getitem__, tables))) <= tables:
            tables |= more
        return tables


def _is_plain_insert(text: str) -> bool:
    words = [token.word for token in ddl.tokens_of(text)]
    return words[:1] == ["INSERT"] and _CHOOSING.isdisjoint(words)


def _has_unique_values(connection: apsw.Connection, table: str) -> bool:
    """Whether rows of a table can clash by more than their keys."""
    indexes = connection.execute(
        "SELECT 1 FROM pragma_index_list(?) WHERE \"unique\" AND origin <> 'pk'", (table,)
    )
    return indexes.fetchone() is not None


class Footprint(NamedTuple):
    """What an entry of the log rests on: it need not run again while that is as it was."""

    name: str
    version: int
    tables: Tables


@lru_cache(4096)  # there are few: one for each way through each action
def footprint_text(name: str, version: int, tables: Tables) -> str:
    """A footprint as the log keeps it."""
    return f"{name} {version} {','.join(sorted(tables))}"


@lru_cache(4096)
def read_footprint(text: str) -> Footprint:
    name, version, tables = text.split(" ")
    return Footprint(name, int(version), frozenset(tables.split(",")) if tables else NOTHING)
