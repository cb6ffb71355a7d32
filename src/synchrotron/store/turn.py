"""Whose turn it is to sync a file that several processes have open.

The turn is an SQLite lock on a file beside the database. It works wherever SQLite does, and
ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import apsw


class Turn:
    """A place in the queue of one process; with no path, it is always its turn."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._connection: apsw.Connection | None = None

    def take(self) -> bool:
        """Whether it is our turn, from now on until it is given up. Never waits."""
        if self._path is None or self._connection is not None:
            return True
        connection = None
        try:
            connection = apsw.Connection(self._path)
            connection.execute("BEGIN EXCLUSIVE")
        except apsw.Error:
            if connection is not None:
                connection.close()
            return False
        self._connection = connection
        return True

    def give_up(self) -> None:
        """Let another process have it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
