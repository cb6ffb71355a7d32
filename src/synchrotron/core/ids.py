"""Identities: who an action is from, which action it is, and the ids that it makes.

Everything an action makes is derived from its record's *seed* (A4), so that a
replay makes the same. A seed is 128 random bits drawn at the first run; it stays
whatever becomes of the action's id or order key.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, MutableSequence, Sequence
from itertools import accumulate
from typing import Any, NewType, NoReturn, TypeVar

from synchrotron.core.canonical import canonical, text_of

ClientId = NewType("ClientId", str)
"""24 lower-case hex digits: 96 random bits."""
ActionId = NewType("ActionId", str)
"""`<client id>-<n>`, n counted up from 1."""
Seq = NewType("Seq", int)
"""The number of an accepted action or correction; seq order is commit order."""
Audience = NewType("Audience", str)
"""The sharing scope of a row, such as `project:42`."""

Entropy = Callable[[int], bytes]
"""`entropy(n)` gives n random bytes; `os.urandom`, or a test's own."""

CLIENT_ID = r"[0-9a-f]{24}"
ACTION_NUMBER = r"[1-9][0-9]{0,17}"
ACTION_ID = rf"{CLIENT_ID}-{ACTION_NUMBER}"
SEED = r"[0-9a-f]{32}"
_action_id = re.compile(ACTION_ID)
_seed = re.compile(SEED)
T = TypeVar("T")


def new_client_id(entropy: Entropy) -> ClientId:
    return ClientId(entropy(12).hex())


def as_client_id(text: str) -> ClientId:
    """Raises `ValueError` if it is none."""
    if not re.fullmatch(CLIENT_ID, text):
        raise ValueError(f"{text!r} is not a client id: 24 lower-case hex digits")
    return ClientId(text)


def new_seed(entropy: Entropy) -> str:
    return entropy(16).hex()


def is_seed(text: str) -> bool:
    return _seed.fullmatch(text) is not None


def action_id(client: ClientId, n: int) -> ActionId:
    return ActionId(f"{client}-{n}")


def split_action_id(id: ActionId) -> tuple[ClientId, int]:
    """The client and n of an action id. Raises `ValueError` if it is none."""
    if not _action_id.fullmatch(id):
        raise ValueError(f"{id!r} is not an action id: 24 hex digits, '-', a number from 1")
    client, n = id.split("-")
    return ClientId(client), int(n)


def number_of(id: ActionId) -> int:
    """The n of an action id that is known to be one."""
    return int(id[25:])


def derive_id(seed: str, table: str, kind: str, *parts: Any) -> str:
    """A UUIDv8 (RFC 9562, 5.8) from a seed; `kind` is "key" or "n". 36 lower-case characters."""
    # An ordinal always has a canonical form; a key that an action gives is checked for one.
    text = text_of if kind == "n" else canonical
    digest = hashlib.sha256(text([seed, table, kind, *parts]).encode()).digest()
    hex = digest[:16].hex()
    variant = "89ab"[int(hex[16], 16) & 3]
    return f"{hex[:8]}-{hex[8:12]}-8{hex[13:16]}-{variant}{hex[17:20]}-{hex[20:32]}"


class SeededRandom(random.Random):
    """Random numbers that depend on an action's seed alone.

    `random()` is the Mersenne Twister, which Python keeps stable. The methods made
    from it are our own, since Python's may change between versions; those that rest
    on the platform's logarithms are refused, since two platforms' may differ.
    """

    def __init__(self, seed: str) -> None:
        super().__init__(int(hashlib.sha256(canonical([seed, "random"]).encode()).hexdigest(), 16))

    def getrandbits(self, k: int, /) -> int:
        bits = 0
        for _ in range(-(-k // 32)):
            bits = bits << 32 | int(self.random() * 4294967296)
        return bits >> -k % 32

    def randbytes(self, n: int) -> bytes:
        return self.getrandbits(n * 8).to_bytes(n, "big")

    def _below(self, n: int) -> int:
        # Rejection keeps every number equally likely, for any n.
        bits = n.bit_length()
        while (number := self.getrandbits(bits)) >= n:
            pass
        return number

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        numbers = range(start) if stop is None else range(start, stop, step)
        if not numbers:
            raise ValueError(f"empty range in randrange({start}, {stop}, {step})")
        return numbers[self._below(len(numbers))]

    def randint(self, a: int, b: int) -> int:
        return self.randrange(a, b + 1)

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.random()

    def choice(self, seq: Any) -> Any:
        if not len(seq):
            raise IndexError("cannot choose from an empty sequence")
        return seq[self._below(len(seq))]

    def choices(
        self,
        population: Any,
        weights: Sequence[float] | None = None,  # type: ignore[override]
        *,
        cum_weights: Sequence[float] | None = None,  # type: ignore[override]
        k: int = 1,
    ) -> list[Any]:
        bounds = list(accumulate(weights)) if weights is not None else cum_weights
        if bounds is None:
            return [self.choice(population) for _ in range(k)]
        return [population[self._weighted(bounds)] for _ in range(k)]

    def _weighted(self, bounds: Sequence[float]) -> int:
        point = self.random() * bounds[-1]
        return next((i for i, bound in enumerate(bounds) if point < bound), len(bounds) - 1)

    def shuffle(self, x: MutableSequence[Any]) -> None:
        for i in range(len(x) - 1, 0, -1):
            j = self._below(i + 1)
            x[i], x[j] = x[j], x[i]

    def sample(self, population: Sequence[T], k: int, *, counts: Any = None) -> list[T]:
        pool = list(population)
        if counts is not None:
            pool = [item for item, count in zip(pool, counts, strict=True) for _ in range(count)]
        if not 0 <= k <= len(pool):
            raise ValueError(f"cannot sample {k} of {len(pool)}")
        self.shuffle(pool)
        return pool[:k]

    def _refused(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            "this distribution rests on the platform's math library, which may differ between "
            "replicas: draw it outside and pass it as an argument"
        )

    triangular = gauss = normalvariate = lognormvariate = expovariate = _refused
    vonmisesvariate = gammavariate = betavariate = paretovariate = _refused
    weibullvariate = binomialvariate = _refused
