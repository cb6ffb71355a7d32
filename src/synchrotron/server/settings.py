"""What an operator chooses: arguments of `asgi`, options of `serve`, environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

import msgspec

from synchrotron.errors import UsageError

PREFIX = "SYNCHROTRON_"
SECRET_BYTES_MIN = 32
"""A shorter secret of HS256 can be guessed (RFC 7518, 3.2)."""


class Options(TypedDict, total=False):
    """The settings by name, for keyword arguments. `Settings` says what each means."""

    jwt_secret: str | None
    jwks_url: str | None
    jwt_issuer: str | None
    jwt_audience: str | None
    body_bytes_max: int
    actions_max: int
    parts_max: int
    requests_per_minute: int
    snapshots_max: int
    event_streams_max: int
    event_streams_per_user: int
    body_timeout_s: float
    max_clock_drift_ms: int
    max_backdate_ms: int | None
    page_events: int | None
    connections_max: int
    retention_days: float | None
    metrics: bool


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All options. The environment variable of `jwt_secret` is `SYNCHROTRON_JWT_SECRET`."""

    jwt_secret: str | None = None
    """Tokens signed by HS256 with this secret are accepted; at least 32 bytes."""
    jwks_url: str | None = None
    """Tokens signed by RS256 or ES256 with one of the keys found there are accepted."""
    jwt_issuer: str | None = None
    """Where set, the `iss` of every token."""
    jwt_audience: str | None = None
    """Where set, the `aud` of every token holds it."""
    body_bytes_max: int = 16_000_000
    """A request's body, as it comes and when it is expanded. Replicas cut uploads at 3 MB."""
    actions_max: int = 10_000
    """Actions and corrections in one request, and offers in one for a snapshot."""
    parts_max: int = 1_000
    """The parts of one upload."""
    requests_per_minute: int = 1_200
    """Of one user. As many may come at once."""
    snapshots_max: int = 4
    """Snapshots that are streamed at once by this process: each holds a connection."""
    event_streams_max: int = 10_000
    """Open event streams, of this process."""
    event_streams_per_user: int = 100
    """Open event streams of one user, of this process."""
    body_timeout_s: float = 30.0
    """How long a body may take to arrive, and a piece of a stream to be taken."""
    max_clock_drift_ms: int = 60_000
    """Order keys further in the future are refused (O4)."""
    max_backdate_ms: int | None = None
    """Where set, order keys further in the past are refused (O4)."""
    page_events: int | None = None
    """As many events make a page at most, where a replica asks for no fewer."""
    connections_max: int = 8
    """To PostgreSQL, of this process; beside them there is one that listens."""
    retention_days: float | None = None
    """Where set, older history is folded into the rows, every hour (F3)."""
    metrics: bool = True
    """Whether `/metrics` is there; it names no users."""

    def __post_init__(self) -> None:
        if self.jwt_secret is None and self.jwks_url is None:
            raise ValueError(
                "nothing says which tokens to accept: set jwt_secret or jwks_url "
                f"({PREFIX}JWT_SECRET or {PREFIX}JWKS_URL)"
            )
        if self.jwt_secret is not None and len(self.jwt_secret.encode()) < SECRET_BYTES_MIN:
            raise ValueError(
                f"jwt_secret has less than {SECRET_BYTES_MIN} bytes: it can be guessed"
            )
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
                raise ValueError(f"{name} is {value}: a limit is above 0")


def read_settings(environment: Mapping[str, str], **given: Unpack[Options]) -> Settings:
    """Settings as given, and else as in the environment. Raises `UsageError`."""
    names = Settings.__struct_fields__
    found: dict[str, Any] = {
        name: environment[PREFIX + name.upper()]
        for name in names
        if environment.get(PREFIX + name.upper())
    }
    found |= {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert(found, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"the server's settings: {error}") from error
