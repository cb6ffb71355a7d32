"""Who is asking: bearer tokens (JWT), checked by a secret or by published keys.

Which algorithm goes with which key is decided here and never by a token: HS256 with the
secret, RS256 and ES256 with keys of the JWKS that are of their kind. So neither `none` nor
a public key taken for a secret gets anyone in.
"""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, RSAKey

from synchrotron.app.types import formless_text
from synchrotron.server.settings import Settings

LEEWAY_S = 30
"""So far the clocks of who signs and who checks may be apart."""
USER_LENGTH_MAX = 255
KEYS_FRESH_S = 600
KEYS_COOLDOWN_S = 10
"""Tokens with unknown keys do not make us ask for keys more often than this."""
KNOWN_TOKENS_MAX = 10_000
Fetch = Callable[[str], Awaitable[bytes]]
PublicKey = RSAKey | ECKey
_KEY_KINDS: dict[str, type[RSAKey] | type[ECKey]] = {"RS256": RSAKey, "ES256": ECKey}
_IMPORTS: dict[Any, Callable[[Any], PublicKey]] = {
    "RSA": RSAKey.import_key,
    "EC": ECKey.import_key,
}
_PARTS = 3


class TokenRefused(Exception):
    """A token that is not accepted; the message says why."""


class KeysUnavailable(Exception):
    """The keys cannot be fetched, so that no token can be judged."""


class Bearer(NamedTuple):
    """Whose token it is, and until when."""

    user: str
    until_s: float
    """Seconds since the epoch."""


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None


class PublishedKeys:
    """The keys of a JWKS, fetched when they are needed and again when they are old."""

    def __init__(self, url: str, fetch: Fetch, clock_s: Callable[[], float]) -> None:
        self._url = url
        self._fetch = fetch
        self._clock_s = clock_s
        self._keys: list[PublicKey] = []
        self._fetched_s: float | None = None
        self._tried_s: float | None = None
        self._turn = asyncio.Lock()

    async def find(self, algorithm: str, kid: str | None) -> PublicKey:
        """The key of a token. Raises `TokenRefused` and `KeysUnavailable`."""
        if self._is_older_than(self._fetched_s, KEYS_FRESH_S):
            await self._refresh()
        key = self._known(algorithm, kid)
        if key is None:
            await self._refresh()  # it may have been published since
            key = self._known(algorithm, kid)
        if key is None:
            raise TokenRefused(f"it is signed by {algorithm} with a key that is not published")
        return key

    def _known(self, algorithm: str, kid: str | None) -> PublicKey | None:
        fitting = [key for key in self._keys if isinstance(key, _KEY_KINDS[algorithm])]
        if kid is not None:
            return next((key for key in fitting if key.kid == kid), None)
        return fitting[0] if len(fitting) == 1 else None

    def _is_older_than(self, then_s: float | None, age_s: float) -> bool:
        return then_s is None or self._clock_s() - then_s > age_s

    async def _refresh(self) -> None:
        async with self._turn:
            if not self._is_older_than(self._tried_s, KEYS_COOLDOWN_S):
                if self._fetched_s is None:
                    raise KeysUnavailable(f"the keys at {self._url} cannot be read")
                return
            self._tried_s = self._clock_s()
            try:
                self._keys = _read_keys(await self._fetch(self._url))
            except (OSError, ValueError, TimeoutError) as error:
                if self._fetched_s is None:
                    message = f"the keys at {self._url} cannot be read: {error}"
                    raise KeysUnavailable(message) from error
            else:
                self._fetched_s = self._clock_s()


def _read_keys(body: bytes) -> list[PublicKey]:
    """The public keys in a JWKS that tokens may be signed with; others are passed over."""
    document: Any = msgspec.json.decode(body)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("it is no set of keys (JWKS)")
    keys: list[PublicKey] = []
    for data in document["keys"]:
        if not isinstance(data, dict):
            raise ValueError("it holds something that is no key")
        import_key = _IMPORTS.get(data.get("kty"))
        if import_key is not None and data.get("use", "sig") == "sig":
            try:
                keys.append(import_key(data))
            except (JoseError, ValueError, KeyError, TypeError):
                continue
    return keys


class Tokens:
    """Checks tokens. One that was accepted is remembered while it is valid."""

    def __init__(
        self, settings: Settings, fetch: Fetch, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._clock_s = clock_s
        self._secret = OctKey.import_key(settings.jwt_secret) if settings.jwt_secret else None
        self._published = (
            PublishedKeys(settings.jwks_url, fetch, clock_s) if settings.jwks_url else None
        )
        self._known: dict[str, Bearer] = {}

    async def check(self, authorization: str) -> Bearer:
        """Whose `Authorization` this is. Raises `TokenRefused` and `KeysUnavailable`."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise TokenRefused("a request needs the header `Authorization: Bearer <token>`")
        known = self._known.get(token)
        if known is None:
            known = await self._read(token)
            if len(self._known) >= KNOWN_TOKENS_MAX:
                self._known.clear()
            self._known[token] = known
        if known.until_s + LEEWAY_S <= self._clock_s():
            del self._known[token]
            raise TokenRefused("it has expired")
        return known

    async def _read(self, token: str) -> Bearer:
        key, algorithm = await self._key_of(token)
        try:
            claims = jwt.decode(token, key, algorithms=[algorithm]).claims
            self._registry().validate(claims)
        except JoseError as error:
            raise TokenRefused(_reason(error)) from error
        except (ValueError, TypeError) as error:  # a signature or payload that is no base64
            raise TokenRefused(f"it cannot be read: {error}") from error
        return Bearer(_user(claims), float(claims["exp"]))

    async def _key_of(self, token: str) -> tuple[OctKey | PublicKey, str]:
        header = _header(token)
        if header.alg == "HS256" and self._secret is not None:
            return self._secret, header.alg
        if header.alg in _KEY_KINDS and self._published is not None:
            return await self._published.find(header.alg, header.kid), header.alg
        raise TokenRefused(f"it is signed by {header.alg!r}, which is not accepted here")

    def _registry(self) -> jwt.JWTClaimsRegistry:
        expected: dict[str, Any] = {"sub": {"essential": True}, "exp": {"essential": True}}
        if self._settings.jwt_issuer:
            expected["iss"] = {"essential": True, "value": self._settings.jwt_issuer}
        if self._settings.jwt_audience:
            expected["aud"] = {"essential": True, "value": self._settings.jwt_audience}
        return jwt.JWTClaimsRegistry(now=lambda: int(self._clock_s()), leeway=LEEWAY_S, **expected)


def _header(token: str) -> _Header:
    if token.count(".") != _PARTS - 1:
        raise TokenRefused("it is no signed JWT: three parts, joined by dots")
    try:
        return msgspec.json.decode(_from_base64(token.partition(".")[0]), type=_Header)
    except (ValueError, RecursionError) as error:
        raise TokenRefused("its header cannot be read") from error


def _from_base64(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _user(claims: dict[str, Any]) -> str:
    user = claims["sub"]
    if not isinstance(user, str) or not 0 < len(user) <= USER_LENGTH_MAX:
        raise TokenRefused(f"its `sub` is no user: a text of 1 to {USER_LENGTH_MAX} characters")
    if complaint := formless_text(user):
        raise TokenRefused(f"its `sub` is no user: it {complaint}")
    return user


def _reason(error: JoseError) -> str:
    match error.error:
        case "bad_signature":
            return "its signature is wrong: it was signed with another secret or key than ours"
        case "expired_token":
            return "it has expired"
        case "missing_claim" | "invalid_claim":
            return f"a claim is missing or another one is expected: {error.description}"
        case _:
            return f"it cannot be accepted: {error.description or error.error}"


def sign(secret: str, user: str, now_s: float, valid_s: float, **claims: Any) -> str:
    """A token of HS256: for development, and for services that vouch for their users."""
    now = int(now_s)
    payload = {"sub": user, "iat": now, "exp": now + int(valid_s), **claims}
    return jwt.encode({"alg": "HS256"}, payload, OctKey.import_key(secret))
