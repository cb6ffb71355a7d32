"""Samples: which action a simulated user runs next, and with which arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from synchrotron.app.action import Action
from synchrotron.app.definition import Definition
from synchrotron.app.row import Row
from synchrotron.errors import ActionDefinitionError, UsageError
from synchrotron.testing.simulation.dice import Dice

TRIES_MAX = 10
"""How many samplers may say "not now" before a step is given up."""


class Query:
    """What a sample is made from: `query(sql, params)` reads the replica on which it will run.

    `query.user` is whose replica that is, `query.users` everyone in this history.
    """

    def __init__(
        self, read: Callable[..., list[Row]], user: str = "", users: tuple[str, ...] = ()
    ) -> None:
        self._read = read
        self.user = user
        self.users = users

    def __call__(self, sql: str, params: Any = ()) -> list[Row]:
        return self._read(sql, params)

    def one(self, rng: Any, sql: str, params: Any = ()) -> Any:
        """The first column of one of these rows, or None if there is none."""
        rows = self._read(sql, params)
        return next(iter(rng.choice(rows).values())) if rows else None


class Sample(NamedTuple):
    """An action and arguments for it."""

    action: Action[Any, Any]
    args: Mapping[str, Any]


def require_samples(app: Definition) -> None:
    """Raises `ActionDefinitionError` for actions that cannot be simulated, by name."""
    if not app.actions:
        raise UsageError(f"application {app.name!r} has no actions to simulate")
    missing = sorted(a.title for a in app.actions.values() if a.sampler is None)
    if missing:
        raise ActionDefinitionError(
            f"no sample for {', '.join(missing)}: a simulation needs arguments for every action. "
            "Write `@NAME.sample` over a function (rng, query) that gives them, or None for "
            "“not now”"
        )


def draw_sample(dice: Dice, app: Definition, query: Query) -> Sample | None:
    """One of the application's actions with arguments, or None if none will do now."""
    actions = [app.actions[key] for key in sorted(app.actions)]
    for _ in range(TRIES_MAX):
        action = dice.choice(actions)
        args = action.sampler(dice, query) if action.sampler else None
        if args is not None:
            return Sample(action, args)
    return None
