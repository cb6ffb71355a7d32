"""SQL's own clock, dice and new ids: inside an action they are the context's (A3).

SQLite's date functions and its random ones are replaced on the writing connection. What
they compute is still SQLite's: a second connection has the originals. (A VFS with another
clock would do for 'now' too, but puts every file operation through Python's lock: measured
10 to 15 % of a run. And it would let 'localtime' through, which is the machine's.)
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import apsw

from synchrotron.app.context import Context
from synchrotron.app.ddl import NEW_ID
from synchrotron.errors import StatementRefused

# Where each function's time values stand among its arguments; left out, they are 'now'.
_TIME_VALUES = {
    "date": (0,),
    "time": (0,),
    "datetime": (0,),
    "julianday": (0,),
    "unixepoch": (0,),
    "strftime": (1,),
    "timediff": (0, 1),
}
_KEYWORDS = {"current_date": "date", "current_time": "time", "current_timestamp": "datetime"}
_NOW = ("now", "subsec", "subsecond")
_MACHINE_ZONE = ("localtime", "utc")
BLOB_LENGTH_MAX = 1_000_000_000  # SQLite's own


class ActionFunctions:
    """The functions of one connection. `context` is the running action's."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.context: Context | None = None
        self._originals = apsw.Connection(":memory:")
        add = connection.create_scalar_function
        add(NEW_ID, self._new_id, 1)
        add("random", self._random, 0)
        add("randomblob", self._randomblob, 1)
        # Deterministic within a statement, as SQLite's own are: generated columns may use them.
        for name in _TIME_VALUES:
            add(name, partial(self._time, name), -1, deterministic=True)
        for keyword, name in _KEYWORDS.items():
            add(keyword, partial(self._time, name), 0, deterministic=True)

    def close(self) -> None:
        self._originals.close()

    def _new_id(self, *table: Any) -> str:
        if self.context is None:
            raise apsw.SQLError("ids are made in actions: call ctx.new_id there")
        return self.context.new_id(table[0])

    def _random(self, *_: Any) -> int:
        return int.from_bytes(self._randomblob(8), "big", signed=True)

    def _randomblob(self, *length: Any) -> bytes:
        n = max(int(length[0]), 1) if isinstance(length[0], int | float) else 1
        if n > BLOB_LENGTH_MAX:
            raise apsw.TooBigError("string or blob too big")
        return self.context.random.randbytes(n) if self.context else os.urandom(n)

    def _time(self, name: str, *args: Any) -> Any:
        if self.context is not None:
            args = self._at(self.context, name, args)
        marks = ", ".join("?" * len(args))
        return self._originals.execute(f"SELECT {name}({marks})", args).get

    def _at(self, context: Context, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with the context's moment for 'now'."""
        words = [arg.lower() if isinstance(arg, str) else None for arg in args]
        if zone := next((word for word in words if word in _MACHINE_ZONE), None):
            raise StatementRefused(
                f"{name}(…, '{zone}') uses the machine's time zone, which differs between "
                "replicas: keep UTC, or pass the offset as an argument"
            )
        moment = context.now.strftime("%Y-%m-%d %H:%M:%S.%f")
        given = list(args)
        for position in _TIME_VALUES[name]:
            if position >= len(given):
                given.append(moment)
            elif words[position] == "now":
                given[position] = moment
            elif words[position] in _NOW:
                given.insert(position, moment)
        return tuple(given)
