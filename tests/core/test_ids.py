"""Identities: derived ids and random numbers that depend on the seed alone."""

from __future__ import annotations

import hashlib
import random
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synchrotron.core.ids import (
    ActionId,
    ClientId,
    SeededRandom,
    action_id,
    as_client_id,
    derive_id,
    new_client_id,
    new_seed,
    split_action_id,
)

SEED = "00112233445566778899aabbccddeeff"
CLIENT = "0123456789abcdef01234567"
SEEDS = st.text("0123456789abcdef", min_size=32, max_size=32)


def uuid8(json: str) -> str:
    """RFC 9562, 5.8: the first 16 bytes of SHA-256, with version 8 and variant 0b10."""
    number = int.from_bytes(hashlib.sha256(json.encode()).digest()[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76
    number = number & ~(0b11 << 62) | 0b10 << 62
    return str(uuid.UUID(int=number))


# ---- clients and actions -------------------------------------------------------------


def test_a_client_id_is_96_random_bits_in_hex() -> None:
    asked: list[int] = []
    assert (
        new_client_id(lambda n: (asked.append(n), bytes(range(n)))[1]) == "000102030405060708090a0b"
    )
    assert asked == [12]


def test_a_seed_is_128_random_bits_in_hex() -> None:
    assert new_seed(lambda n: b"\xfe" * n) == "fe" * 16


def test_an_action_id_is_the_client_and_a_number() -> None:
    id = action_id(ClientId(CLIENT), 17)
    assert id == CLIENT + "-17"
    assert split_action_id(id) == (CLIENT, 17)


@pytest.mark.parametrize(
    "text",
    [
        "",
        CLIENT,
        f"{CLIENT}-",
        f"{CLIENT}-0",
        f"{CLIENT}-01",
        f"{CLIENT}--1",
        f"{CLIENT}-1 ",
        f"{CLIENT}-1\n",
        f"{CLIENT}-٣",
        f"{CLIENT.upper()}-1",
        f"{CLIENT[:-1]}-1",
    ],
)
def test_nothing_else_is_an_action_id(text: str) -> None:
    with pytest.raises(ValueError, match="is not an action id"):
        split_action_id(ActionId(text))


@pytest.mark.parametrize("text", ["", CLIENT[:-1], CLIENT + "0", CLIENT.upper(), CLIENT + "\n"])
def test_nothing_else_is_a_client_id(text: str) -> None:
    assert as_client_id(CLIENT) == CLIENT
    with pytest.raises(ValueError, match="24 lower-case hex digits"):
        as_client_id(text)


# ---- new ids -------------------------------------------------------------------------


@pytest.mark.spec("A4")
@pytest.mark.parametrize(
    ("kind", "parts", "json"),
    [
        ("n", [0], f'["{SEED}","todo","n",0]'),
        ("n", [12], f'["{SEED}","todo","n",12]'),
        ("key", ["a"], f'["{SEED}","todo","key","a"]'),
        ("key", ["é", 1, 1.0, None, True], f'["{SEED}","todo","key","é",1,1.0,null,true]'),
        ("key", [{"b": 1, "a": [2]}], f'["{SEED}","todo","key",{{"a":[2],"b":1}}]'),
    ],
)
def test_a_new_id_is_derived_as_the_specification_says(
    kind: str, parts: list[Any], json: str
) -> None:
    assert derive_id(SEED, "todo", kind, *parts) == uuid8(json)


@pytest.mark.spec("A4")
def test_new_ids_stay_what_they_were() -> None:
    """Written down once: an id that changes breaks every history there is."""
    assert derive_id(SEED, "todo", "n", 0) == "b737a8ac-b9a8-882f-8b78-3679586670a8"
    assert derive_id(SEED, "todo", "key", "a") == "1554ab9c-502a-81c0-bcf9-94258d64ef9c"


@given(SEEDS, st.text("abc", min_size=1), st.integers(0, 10))
def test_a_new_id_is_a_uuid_of_version_8(seed: str, table: str, ordinal: int) -> None:
    id = derive_id(seed, table, "n", ordinal)
    parsed = uuid.UUID(id)
    assert (parsed.version, parsed.variant) == (8, uuid.RFC_4122)
    assert str(parsed) == id, "36 lower-case characters"


def test_another_seed_table_kind_or_key_gives_another_id() -> None:
    ids = [
        derive_id(seed, table, kind, *key)
        for seed in (SEED, SEED[::-1])
        for table in ("a", "b")
        for kind in ("n", "key")
        for key in ([0], [1], [1.0], [True], ["1"], [1, 0])
    ]
    assert len(set(ids)) == len(ids)


# ---- random numbers ------------------------------------------------------------------


@pytest.mark.spec("A4")
def test_random_is_the_mersenne_twister_seeded_with_the_hash() -> None:
    digest = hashlib.sha256(f'["{SEED}","random"]'.encode()).digest()
    twister = random.Random(int.from_bytes(digest, "big"))
    ours = SeededRandom(SEED)
    assert [ours.random() for _ in range(5)] == [twister.random() for _ in range(5)]


@pytest.mark.spec("A4")
def test_random_numbers_stay_what_they_were() -> None:
    """Written down once, and the same on every version of Python."""
    r = SeededRandom(SEED)
    drawn: list[Any] = [
        r.random(),
        r.getrandbits(1),
        r.getrandbits(32),
        r.getrandbits(70),
        r.randbytes(5).hex(),
        r.randrange(10),
        r.randrange(5, 50, 7),
        r.randint(-3, 3),
        r.uniform(1.0, 2.0),
        r.choice("abcdef"),
        r.choices("abc", k=4),
        r.choices("abc", weights=[1, 0, 5], k=4),
        r.choices("abc", cum_weights=[1, 2, 3], k=2),
        r.sample(range(100), 4),
        r.sample("ab", 3, counts=[2, 2]),
    ]
    shuffled = list("abcdefgh")
    r.shuffle(shuffled)
    assert [*drawn, "".join(shuffled)] == [
        0.20850490344264938,
        0,
        54531627,
        483383956479748036606,
        "daa0eeabde",
        9,
        19,
        2,
        1.0422164471175352,
        "c",
        ["c", "c", "a", "c"],
        ["c", "c", "c", "a"],
        ["c", "c"],
        [21, 31, 1, 52],
        ["a", "b", "a"],
        "hgdbeacf",
    ]


@given(SEEDS, st.integers(-50, 50), st.integers(1, 60), st.integers(1, 7))
def test_every_method_stays_in_its_range(seed: str, start: int, width: int, step: int) -> None:
    r = SeededRandom(seed)
    stop = start + width
    assert r.randrange(start, stop, step) in range(start, stop, step)
    assert r.randrange(stop, start, -step) in range(stop, start, -step)
    assert r.randrange(width) in range(width)
    assert start <= r.randint(start, stop) <= stop
    assert start <= r.uniform(start, stop) <= stop
    assert 0 <= r.getrandbits(width) < 2**width
    assert len(r.randbytes(width)) == width
    items = list(range(width))
    assert r.choice(items) in items
    assert set(r.choices(items, k=9)) <= set(items)
    picked = r.sample(items, width // 2)
    assert len(set(picked)) == width // 2
    assert set(picked) <= set(items)
    shuffled = items[:]
    r.shuffle(shuffled)
    assert sorted(shuffled) == items


def test_every_value_of_a_range_comes_up() -> None:
    r = SeededRandom(SEED)
    assert {r.randrange(3, 12, 2) for _ in range(400)} == {3, 5, 7, 9, 11}
    assert {r.randint(1, 6) for _ in range(400)} == {1, 2, 3, 4, 5, 6}
    assert {tuple(r.sample("abc", 3)) for _ in range(400)} == {
        (a, b, c) for a in "abc" for b in "abc" for c in "abc" if len({a, b, c}) == 3
    }


def test_weights_are_kept() -> None:
    r = SeededRandom(SEED)
    drawn = r.choices("abc", weights=[1, 0, 3], k=2000)
    assert drawn.count("b") == 0
    assert 400 < drawn.count("a") < 600


def test_an_empty_choice_is_refused() -> None:
    r = SeededRandom(SEED)
    for call in (lambda: r.randrange(0), lambda: r.randint(2, 1), lambda: r.sample("ab", 3)):
        with pytest.raises(ValueError, match=r"empty range|cannot sample"):
            call()
    with pytest.raises(IndexError, match="empty sequence"):
        r.choice([])


@pytest.mark.parametrize(
    "name",
    [
        "triangular", "gauss", "normalvariate", "lognormvariate", "expovariate",
        "vonmisesvariate", "gammavariate", "betavariate", "paretovariate", "weibullvariate",
        "binomialvariate",
    ],
)  # fmt: skip
def test_distributions_that_rest_on_the_platform_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="pass it as an argument"):
        getattr(SeededRandom(SEED), name)(1, 1)


@pytest.mark.spec("A4")
def test_no_method_of_pythons_own_is_left_but_random_itself() -> None:
    """Whatever a later Python adds must be judged here before an action can use it."""
    ours = set(vars(SeededRandom))
    public = {name for name in dir(random.Random) if not name.startswith("_")}
    assert public - ours == {"VERSION", "random", "seed", "getstate", "setstate"}
