"""Transactions over plain dictionaries and lists.

Every change notes how to take it back. So the reference server judges an upload as a
database does: it writes, looks at the result, and rolls back where that will not do.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_MISSING: Any = object()


class Undo:
    """What was changed since the transaction began, newest last."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def mark(self) -> int:
        """A savepoint, for `back_to`."""
        return len(self._steps)

    def back_to(self, mark: int) -> None:
        while len(self._steps) > mark:
            self._steps.pop()()

    def commit(self) -> None:
        self._steps.clear()

    # ---- changes that can be taken back -------------------------------------------

    def put(self, mapping: MutableMapping[K, V], key: K, value: V) -> None:
        old = mapping.get(key, _MISSING)
        mapping[key] = value
        self._steps.append(lambda: _restore(mapping, key, old))

    def drop(self, mapping: MutableMapping[K, V], key: K) -> None:
        old = mapping.pop(key, _MISSING)
        self._steps.append(lambda: _restore(mapping, key, old))

    def append(self, items: list[V], item: V) -> None:
        items.append(item)
        self._steps.append(items.pop)

    def insort(self, items: list[Any], item: Any) -> None:
        """Insert into a sorted list that holds no equal item."""
        insort(items, item)
        self._steps.append(lambda: items.pop(bisect_left(items, item)))

    def set(self, thing: object, name: str, value: Any) -> None:
        old = getattr(thing, name)
        setattr(thing, name, value)
        self._steps.append(lambda: setattr(thing, name, old))


def _restore(mapping: MutableMapping[K, V], key: K, old: V) -> None:
    if old is _MISSING:
        mapping.pop(key, None)
    else:
        mapping[key] = old
