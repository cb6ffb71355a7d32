"""Who gets in: tokens by secret and by published keys, and every trick with them."""

from __future__ import annotations

import asyncio
import time
from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from joserfc import jws, jwt
from joserfc.jwk import ECKey, KeySet, OctKey, RSAKey
from tests.server.running import SECRET, token

from synchrotron.errors import UsageError
from synchrotron.server.settings import Settings, read_settings
from synchrotron.server.tokens import (
    KEYS_COOLDOWN_S,
    KEYS_FRESH_S,
    KeysUnavailable,
    TokenRefused,
    Tokens,
)

URL = "https://issuer.example/keys"
RSA = RSAKey.generate_key(2048, parameters={"kid": "rsa"})
EC = ECKey.generate_key("P-256", parameters={"kid": "ec"})
OTHER = RSAKey.generate_key(2048, parameters={"kid": "other"})


class Publisher:
    """Publishes keys, and can be down."""

    def __init__(self, *keys: Any) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.down = False
        self.body: bytes | None = None

    async def __call__(self, url: str) -> bytes:
        assert url == URL
        self.asked += 1
        if self.down:
            raise OSError("no route to host")
        if self.body is not None:
            return self.body
        return msgspec.json.encode(KeySet(self.keys).as_dict(private=False))


class Clock:
    def __init__(self) -> None:
        self.now_s = time.time()

    def __call__(self) -> float:
        return self.now_s


def signed(key: Any, algorithm: str, user: str = "alice", **claims: Any) -> str:
    header = {"alg": algorithm, **({"kid": key.kid} if key.kid else {})}
    return jwt.encode(header, {"sub": user, "exp": int(time.time()) + 60, **claims}, key)


def tokens(*keys: Any, clock: Clock | None = None, **options: Any) -> tuple[Tokens, Publisher]:
    publisher = Publisher(*keys)
    if keys:
        options.setdefault("jwks_url", URL)
    return Tokens(Settings(**options), publisher, clock or Clock()), publisher


def user(of: Tokens, token: str) -> str:
    return asyncio.run(of.check(f"Bearer {token}")).user


def by_secret(**options: Any) -> Tokens:
    return tokens(jwt_secret=SECRET, **options)[0]


# ---- by secret -------------------------------------------------------------------------


def test_a_token_signed_with_the_secret_is_accepted() -> None:
    checker = by_secret()
    assert user(checker, token("alice")) == user(checker, token("alice")) == "alice"


@pytest.mark.spec("M4")
@pytest.mark.parametrize(
    ("authorization", "cause"),
    [
        ("", "needs the header"),
        ("Basic YTpi", "needs the header"),
        ("Bearer", "needs the header"),
        ("Bearer a.b", "no signed JWT"),
        ("Bearer a.b.c.d.e", "no signed JWT"),
        ("Bearer !.!.!", "header cannot be read"),
        ("Bearer é.é.é", "header cannot be read"),
        (f"Bearer {token('alice', valid_s=-60)}", "expired"),
        (f"Bearer {token('alice', secret='another secret of thirty-two bytes')}", "signature"),
        (f"Bearer {token('alice')[:-4]}AAAA", "signature"),
        (f"Bearer {token('')}", "sub"),
        (f"Bearer {token('x' * 256)}", "sub"),
        (f"Bearer {token('a' + chr(0))}", "sub"),
        (f"Bearer {token('alice', sub=7)}", "sub|claim"),
        (f"Bearer {token('alice', nbf=int(time.time()) + 3600)}", "cannot be accepted|claim"),
    ],
)
def test_another_token_is_refused_with_its_cause(authorization: str, cause: str) -> None:
    with pytest.raises(TokenRefused, match=cause):
        asyncio.run(by_secret().check(authorization))


def test_a_user_that_no_database_can_store_is_none() -> None:
    payload = rb'{"sub": "a\ud800", "exp": 9000000000}'
    spelt = jws.serialize_compact({"alg": "HS256"}, payload, OctKey.import_key(SECRET))
    with pytest.raises(TokenRefused, match="no user: it holds a lone surrogate"):
        user(by_secret(), spelt)


def unsigned(algorithm: str, **claims: Any) -> str:
    def part(value: Any) -> str:
        return urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()

    payload = {"sub": "alice", "exp": int(time.time()) + 60, **claims}
    return f"{part({'alg': algorithm})}.{part(payload)}."


@pytest.mark.spec("M4")
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS512", "RS256", "dir"])
def test_the_token_does_not_choose_its_algorithm(algorithm: str) -> None:
    with pytest.raises(TokenRefused, match="not accepted here"):
        user(by_secret(), unsigned(algorithm))


@pytest.mark.parametrize("missing", ["sub", "exp"])
def test_a_token_needs_a_user_and_an_end(missing: str) -> None:
    claims = {"sub": "alice", "exp": int(time.time()) + 60}
    del claims[missing]
    forever = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))
    with pytest.raises(TokenRefused, match="claim is missing"):
        user(by_secret(), forever)


def test_a_token_that_was_accepted_ends_all_the_same() -> None:
    clock = Clock()
    checker = by_secret(clock=clock)
    short = token("alice", valid_s=10)
    assert user(checker, short) == "alice"
    clock.now_s += 100
    with pytest.raises(TokenRefused, match="expired"):
        user(checker, short)


def test_issuer_and_audience_are_checked_where_they_are_configured() -> None:
    checker = by_secret(jwt_issuer="https://id.example", jwt_audience="sync")
    good = {"iss": "https://id.example", "aud": ["other", "sync"]}
    assert user(checker, token("alice", **good)) == "alice"
    assert user(checker, token("alice", **{**good, "aud": "sync"})) == "alice"
    for bad in ({"iss": "https://evil.example"}, {"aud": "others"}, {"aud": []}, {"iss": None}):
        with pytest.raises(TokenRefused, match="claim"):
            user(checker, token("alice", **{**good, **bad}))
    with pytest.raises(TokenRefused, match="claim"):
        user(checker, token("alice"))


def test_the_claims_of_gotrue_work() -> None:
    claims = {
        "aud": "authenticated",
        "iss": "https://project.supabase.co/auth/v1",
        "email": "alice@example.org",
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {},
        "role": "authenticated",
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": int(time.time())}],
        "session_id": "3a0e4b0e-0e4b-4e0e-8e0e-0e4b0e4b0e4b",
        "is_anonymous": False,
    }
    checker = by_secret(jwt_audience="authenticated", jwt_issuer=claims["iss"])
    uuid = "6b1f0a3e-9a3e-4a3e-8a3e-6b1f0a3e6b1f"
    assert user(checker, token(uuid, **claims)) == uuid
    # The key of anonymous visitors names nobody.
    anon = {"role": "anon", "iss": claims["iss"], "exp": int(time.time()) + 60}
    with pytest.raises(TokenRefused):
        user(checker, jwt.encode({"alg": "HS256"}, anon, OctKey.import_key(SECRET)))


# ---- by published keys -----------------------------------------------------------------


def test_rs256_and_es256_are_accepted_by_published_keys_which_are_kept() -> None:
    checker, publisher = tokens(RSA, EC)
    assert user(checker, signed(RSA, "RS256")) == "alice"
    assert user(checker, signed(EC, "ES256", "bob")) == "bob"
    assert publisher.asked == 1


@pytest.mark.spec("M4")
def test_a_public_key_is_no_secret() -> None:
    """The classic confusion: a public key, which all know, taken for an HS256 secret."""
    pem = RSA.as_pem(private=False)
    forged = unsigned("HS256")[:-1]
    import hashlib
    import hmac

    mac = hmac.new(pem, forged.encode(), hashlib.sha256).digest()
    forged += "." + urlsafe_b64encode(mac).rstrip(b"=").decode()
    checker, _ = tokens(RSA)
    with pytest.raises(TokenRefused, match="'HS256', which is not accepted"):
        user(checker, forged)
    checker, _ = tokens(RSA, jwt_secret=SECRET)
    with pytest.raises(TokenRefused, match="signature"):
        user(checker, forged)


def test_a_key_of_another_kind_is_not_taken() -> None:
    checker, _ = tokens(RSA, EC)
    wrong = jwt.encode({"alg": "RS256", "kid": "ec"}, {"sub": "a", "exp": 9e9}, RSA)
    with pytest.raises(TokenRefused, match="not published"):
        user(checker, wrong)


def test_secrets_in_a_set_of_keys_are_passed_over() -> None:
    checker, publisher = tokens(RSA)
    shared = OctKey.import_key("x" * 40, {"kid": "oct"})
    publisher.body = msgspec.json.encode({"keys": [shared.as_dict(), RSA.as_dict(private=False)]})
    assert user(checker, signed(RSA, "RS256")) == "alice"
    with pytest.raises(TokenRefused, match="not accepted here"):
        user(checker, signed(shared, "HS256"))


def test_an_unknown_key_is_asked_for_again_but_not_all_the_time() -> None:
    clock = Clock()
    checker, publisher = tokens(RSA, clock=clock)
    assert user(checker, signed(RSA, "RS256")) == "alice"
    for _ in range(5):
        with pytest.raises(TokenRefused, match="not published"):
            user(checker, signed(OTHER, "RS256"))
    assert publisher.asked == 1
    publisher.keys.append(OTHER)
    clock.now_s += KEYS_COOLDOWN_S + 1
    assert user(checker, signed(OTHER, "RS256")) == "alice"
    assert publisher.asked == 2


def test_keys_that_are_gone_are_forgotten_when_the_set_is_old() -> None:
    clock = Clock()
    checker, publisher = tokens(RSA, EC, clock=clock)
    assert user(checker, signed(RSA, "RS256")) == "alice"
    publisher.keys = [EC]
    clock.now_s += KEYS_FRESH_S + 1
    with pytest.raises(TokenRefused, match="not published"):
        user(checker, signed(RSA, "RS256", exp=int(clock.now_s) + 60))


def test_a_publisher_that_is_down_hinders_nobody_whose_key_is_known() -> None:
    clock = Clock()
    checker, publisher = tokens(RSA, clock=clock)
    publisher.down = True
    with pytest.raises(KeysUnavailable, match="no route"):
        user(checker, signed(RSA, "RS256"))
    with pytest.raises(KeysUnavailable):  # and is not asked at every token
        user(checker, signed(RSA, "RS256"))
    assert publisher.asked == 1
    publisher.down = False
    clock.now_s += KEYS_COOLDOWN_S + 1
    assert user(checker, signed(RSA, "RS256")) == "alice"
    publisher.down = True
    clock.now_s += KEYS_FRESH_S + 1
    assert user(checker, signed(RSA, "RS256", exp=int(clock.now_s) + 60)) == "alice"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys":7}', b'{"keys":[7]}', b"\xff"])
def test_something_else_than_keys_is_told_so(body: bytes) -> None:
    checker, publisher = tokens(RSA)
    publisher.body = body
    with pytest.raises(KeysUnavailable, match="cannot be read"):
        user(checker, signed(RSA, "RS256"))


def test_a_key_without_a_name_is_found_where_there_is_no_choice() -> None:
    checker, _ = tokens(RSA, EC)
    nameless = jwt.encode({"alg": "ES256"}, {"sub": "alice", "exp": 9_000_000_000}, EC)
    assert user(checker, nameless) == "alice"
    checker, _ = tokens(RSA, OTHER)
    nameless = jwt.encode({"alg": "RS256"}, {"sub": "alice", "exp": 9_000_000_000}, RSA)
    with pytest.raises(TokenRefused, match="not published"):
        user(checker, nameless)


# ---- settings --------------------------------------------------------------------------


def test_settings_come_from_arguments_before_the_environment() -> None:
    environment = {"SYNCHROTRON_JWT_SECRET": SECRET, "SYNCHROTRON_ACTIONS_MAX": "7"}
    assert read_settings(environment).actions_max == 7
    assert read_settings(environment, actions_max=8).actions_max == 8
    assert read_settings(environment, jwt_issuer="x").jwt_secret == SECRET


@pytest.mark.parametrize(
    ("environment", "cause"),
    [
        ({}, "which tokens to accept: set jwt_secret or jwks_url"),
        ({"SYNCHROTRON_JWT_SECRET": "short"}, "less than 32 bytes"),
        ({"SYNCHROTRON_JWT_SECRET": SECRET, "SYNCHROTRON_ACTIONS_MAX": "many"}, "actions_max"),
        ({"SYNCHROTRON_JWT_SECRET": SECRET, "SYNCHROTRON_ACTIONS_MAX": "0"}, "above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(environment: dict[str, str], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        read_settings(environment)
