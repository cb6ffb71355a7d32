"""Limits: each has a name, and whoever exceeds one is told it.

They are of one process: they keep it from being drowned, and are no quota.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from synchrotron.core.messages import SnapshotRequest, SyncRequest
from synchrotron.server.settings import Settings

USERS_MAX = 100_000


class LimitExceeded(Exception):
    """A limit, by the name of its setting. Asking again helps after `retry_after_s`, if set."""

    def __init__(self, name: str, limit: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"{name} is {limit:,}")
        self.name = name
        self.retry_after_s = retry_after_s


class Rates:
    """How often each user may ask: a bucket of requests that fills up steadily."""

    def __init__(self, per_minute: int, clock_s: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock_s = clock_s
        self._full_at_s: dict[str, float] = {}
        """When the bucket of a user is full again. Full ones are forgotten."""

    def take(self, user: str) -> None:
        """Take one request out of a user's bucket. Raises `LimitExceeded`."""
        now_s, each_s = self._clock_s(), 60 / self._per_minute
        full_at_s = max(self._full_at_s.get(user, now_s), now_s) + each_s
        if full_at_s - now_s > 60 + each_s / 2:
            raise LimitExceeded("requests_per_minute", self._per_minute, full_at_s - now_s - 60)
        if len(self._full_at_s) >= USERS_MAX:
            self._full_at_s = {u: at for u, at in self._full_at_s.items() if at > now_s}
        self._full_at_s[user] = full_at_s


class OpenStreams:
    """Who has how many event streams open."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._of: dict[str, int] = {}

    @property
    def count(self) -> int:
        return sum(self._of.values())

    @contextmanager
    def one(self, user: str) -> Iterator[None]:
        """Hold one stream open. Raises `LimitExceeded`."""
        settings, mine = self._settings, self._of.get(user, 0)
        if mine >= settings.event_streams_per_user:
            raise LimitExceeded("event_streams_per_user", settings.event_streams_per_user, 30)
        if self.count >= settings.event_streams_max:
            raise LimitExceeded("event_streams_max", settings.event_streams_max, 30)
        self._of[user] = mine + 1
        try:
            yield
        finally:
            self._of[user] -= 1
            if not self._of[user]:
                del self._of[user]


class OpenSnapshots:
    """How many snapshots are being streamed."""

    def __init__(self, snapshots_max: int) -> None:
        self._max = snapshots_max
        self.count = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Stream one. Raises `LimitExceeded`."""
        if self.count >= self._max:
            raise LimitExceeded("snapshots_max", self._max, 5)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


def check_size(settings: Settings, request: SyncRequest | SnapshotRequest) -> None:
    """Raises `LimitExceeded` for a request of too many parts, actions or offers.

    A snapshot is asked for in one part, and offers what an upload of all its parts may hold:
    a replica that ran more before its first snapshot would else never get one.
    """
    if isinstance(request, SnapshotRequest):
        if len(request.offers) > settings.actions_max * settings.parts_max:
            raise LimitExceeded("actions_max", settings.actions_max)
        return
    if request.parts > settings.parts_max:
        raise LimitExceeded("parts_max", settings.parts_max)
    if len(request.actions) + len(request.corrections) > settings.actions_max:
        raise LimitExceeded("actions_max", settings.actions_max)
