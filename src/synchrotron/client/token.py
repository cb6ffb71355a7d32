"""Where the token comes from, and whose it is.

A token is not checked here: that is for the server, which has the keys. It is only read,
to know whose replica this is before anything is sent.
"""

from __future__ import annotations

import threading
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

import msgspec

from synchrotron.client.loop import LoopThread
from synchrotron.errors import Unauthorized, WrongUser

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]


class _Claims(msgspec.Struct):
    sub: str | None = None


def user_of(token: str) -> str | None:
    """Whose a token is, where it is a JWT."""
    try:
        payload = token.split(".")[1]
        padded = payload + "=" * (-len(payload) % 4)
        return msgspec.json.decode(urlsafe_b64decode(padded), type=_Claims).sub
    except (IndexError, ValueError):
        return None


class TokenSource:
    """Gives the present token, and a new one where that was refused.

    A callable is called when a token is needed and none is known: a plain one in the
    thread that waits for it, an async one in the loop of the connection.
    """

    def __init__(self, token: Token, loop: LoopThread) -> None:
        self._source = token
        self._loop = loop
        self._turn = threading.Lock()
        self._present = token if isinstance(token, str) else None
        self.user = user_of(token) if isinstance(token, str) else None

    def present(self) -> str:
        """The token to send. Raises `WrongUser`, and what a callable raises."""
        with self._turn:
            return self._present or self._ask()

    def replace(self, refused: str, reason: str) -> str:
        """Another token than the one that the server refused. Raises `Unauthorized`."""
        with self._turn:
            if self._present not in (None, refused):
                assert self._present is not None
                return self._present  # somebody else asked meanwhile
            if isinstance(self._source, str):
                raise Unauthorized(f"{reason}: open the replica with a new token")
            if self._ask() == refused:
                self._present = None
                raise Unauthorized(f"{reason}, and no other token is given")
            assert self._present is not None
            return self._present

    def forget(self, refused: str) -> None:
        """A token that was refused is not tried again, if there may be others."""
        with self._turn:
            if self._present == refused and not isinstance(self._source, str):
                self._present = None

    def _ask(self) -> str:
        assert not isinstance(self._source, str)
        given: Any = self._source()
        token: str = self._loop.run(_awaited(given)) if isawaitable(given) else given
        if not token:
            raise Unauthorized("the function that gives the token gave none: sign in again")
        user = user_of(token)
        if self.user is not None and user is not None and user != self.user:
            raise WrongUser(f"the new token is of user {user!r}, this replica of {self.user!r}")
        self.user = self.user or user
        self._present = token
        return token


async def _awaited(given: Awaitable[str]) -> str:
    return await given
