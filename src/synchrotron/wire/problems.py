"""What a server says where it gives no answer: a status, and a body with the cause."""

from __future__ import annotations

from typing import Literal

import msgspec

ProblemKind = Literal[
    "malformed", "unauthorized", "not found", "method", "timeout", "limit", "format", "unavailable",
    "failed",
]  # fmt: skip
STATUS: dict[ProblemKind, int] = {
    "malformed": 400,
    "unauthorized": 401,
    "not found": 404,
    "method": 405,
    "timeout": 408,
    "limit": 413,
    "format": 415,
    "failed": 500,
    "unavailable": 503,
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a response that is not 200. Nothing was stored."""

    kind: ProblemKind
    message: str
    """What is wrong, and what to do about it."""
    now_ms: int
    """The server's time."""
    name: str | None = None
    """The name of the limit that is exceeded."""
    retry_after_ms: int | None = None
    """When to come again (429 and 503)."""
