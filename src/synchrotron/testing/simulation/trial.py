"""The trial of the core itself: simulations of the warehouse, in every regime.

`open`: everyone sees and may write everything, so that the server is serial at every
commit. `private`: with rows that others do not see. `readonly`: one user may write only
those, always or at times. `churn`: members come and go from outside. `members`: rooms
have members by rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from synchrotron.application import App
from synchrotron.testing.simulation.dice import Dice
from synchrotron.testing.simulation.simulation import USERS, Simulation
from synchrotron.testing.simulation.warehouse import INVARIANTS, ROOMS, make_warehouse
from synchrotron.testing.simulation.world import Cast

REGIMES = ("open", "open", "private", "readonly", "churn", "members")
OLDER_CODE = frozenset({"take", "add", "wander", "note"})
OLDER_SCHEMA = frozenset({"paint"})


class Trial(Simulation):
    """A simulation of the warehouse; its seed draws the regime too."""

    command = "synchrotron simulate"

    def __init__(self, *, seed: int = 0, replicas: int = 3, steps: int = 96) -> None:
        self.regime = Dice(seed, "regime").choice(REGIMES)
        members = self.regime == "members"
        app = _warehouse(self.regime != "open", members, frozenset())
        super().__init__(
            app,
            seed=seed,
            replicas=replicas,
            steps=steps,
            invariants=INVARIANTS[:1],
            undo=True,
        )

    def cast(self, dice: Dice) -> Cast:
        users = USERS[: dice.choice((2, 3))]
        private, members = self.regime != "open", self.regime == "members"
        older = [
            _warehouse(private, members, OLDER_CODE),
            _warehouse(private, members, OLDER_SCHEMA),
        ]
        rooms = {f"room:{room}" for room in ROOMS}
        own = {user: {f"user:{user}"} if private else set[str]() for user in users}
        sets = None if members else {user: rooms | own[user] for user in users}
        last, readonly = users[-1], self.regime == "readonly"

        def policy(user: str, op: str, table: str, row: Mapping[str, Any]) -> bool:
            return user != last or table == "note"

        return Cast(
            app=self.app,
            users=users,
            replicas=self.replicas,
            older=older,
            sets=sets,
            policy=policy if readonly else None,
            relaxes=readonly and dice.chance(0.75),
            invariants=self.invariants,
            churn=self.regime == "churn",
        )


@cache
def _warehouse(private: bool, members: bool, without: frozenset[str]) -> App:
    return make_warehouse(private=private, members=members, without=without)
