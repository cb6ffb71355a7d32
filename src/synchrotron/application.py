"""The application object: what an author writes, and the way to open replicas of it."""

from __future__ import annotations

import os
from collections.abc import Callable

from synchrotron.app.definition import Definition
from synchrotron.core.ids import Entropy
from synchrotron.replica.replica import Replica
from synchrotron.replica.transport import Transport


class App(Definition):
    """An application. See `Definition` for what it is made of."""

    def open(
        self,
        path: str | os.PathLike[str],
        *,
        transport: Transport | None = None,
        user: str | None = None,
        client_id: str | None = None,
        clock: Callable[[], int] | None = None,
        strict: bool | None = None,
        key: str | bytes | None = None,
        entropy: Entropy | None = None,
    ) -> Replica:
        """Open a replica's database, or make one; `":memory:"` lives until it is closed.

        `transport` leads to a server. `user` is needed where the transport does not say
        it; a file belongs to one user. `clock` gives milliseconds since the epoch and
        `entropy(n)` n random bytes: tests bring their own. `strict` runs each action twice
        and reports what it reaches for outside of its arguments and rows; left out, the
        environment variable `SYNCHROTRON_STRICT` says. `key` encrypts the file, where
        `apsw-sqlite3mc` is installed in place of `apsw`; a database in memory needs none.
        Raises `FileError`.
        """
        return Replica(
            self,
            path,
            transport=transport,
            user=user,
            client_id=client_id,
            clock=clock,
            entropy=entropy,
            key=key,
            strict=_strict_by_environment() if strict is None else strict,
        )


def _strict_by_environment() -> bool:
    return os.environ.get("SYNCHROTRON_STRICT", "").lower() not in ("", "0", "false", "no", "off")
