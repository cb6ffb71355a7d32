"""The application object: what an author writes, and the way to open replicas of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from synchrotron.app.definition import Definition
from synchrotron.core.ids import Entropy
from synchrotron.errors import UsageError
from synchrotron.replica.replica import Replica
from synchrotron.replica.transport import Transport

if TYPE_CHECKING:
    from synchrotron.client.http import HttpTransport
    from synchrotron.client.token import Token


class App(Definition):
    """An application. See `Definition` for what it is made of."""

    def open(
        self,
        path: str | os.PathLike[str],
        *,
        server: str | None = None,
        token: Token | None = None,
        transport: Transport | None = None,
        user: str | None = None,
        client_id: str | None = None,
        clock: Callable[[], int] | None = None,
        strict: bool | None = None,
        key: str | bytes | None = None,
        entropy: Entropy | None = None,
        replay_all: bool = False,
    ) -> Replica:
        """Open a replica's database, or make one; `":memory:"` lives until it is closed.

        `server` is the address of one, `token` says who is using it: a text, or a function,
        which may be async, that gives one; it is called again where a token is refused.
        Any other way to a server is a `transport`. `user` is needed for runs before the first
        token; a file belongs to one user. `clock` gives milliseconds since the epoch and
        `entropy(n)` n random bytes: tests bring their own. `strict` runs each action twice
        and reports what it reaches for outside of its arguments and rows; left out, the
        environment variable `SYNCHROTRON_STRICT` says. `key` encrypts the file, where
        `apsw-sqlite3mc` is installed in place of `apsw`; a database in memory needs none.
        Raises `FileError`. `replay_all` runs each later action again where history changes, also
        those that rest on nothing that did; it comes to the same, and is slower.
        """
        on_close = None
        if server is not None:
            transport = connection = _connect(server, token, transport, user)
            on_close = connection.close
        elif token is not None:
            raise UsageError("a token is for a server: open the replica with server=… as well")
        return Replica(
            self,
            path,
            on_close=on_close,
            transport=transport,
            user=user,
            client_id=client_id,
            clock=clock,
            entropy=entropy,
            key=key,
            replay_all=replay_all,
            strict=_strict_by_environment() if strict is None else strict,
        )


def _strict_by_environment() -> bool:
    return os.environ.get("SYNCHROTRON_STRICT", "").lower() not in ("", "0", "false", "no", "off")


def _connect(
    server: str, token: Token | None, transport: Transport | None, user: str | None
) -> HttpTransport:
    # Not before it is needed: a replica without a server does without network and threads.
    from synchrotron.client.http import HttpTransport

    if transport is not None:
        raise UsageError("a replica has one way to its server: server=… or transport=…")
    if not token:  # an empty text, too, such as an environment variable that is not set
        raise UsageError("who is using the server? Open the replica with token=…")
    return HttpTransport(server, token, user=user)
