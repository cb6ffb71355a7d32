"""The simulator's histories against PostgreSQL: every answer is compared with MemoryServer's.

python -m tests.postgres.histories --seeds 0:50
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable
from typing import Any

from tests.postgres.twin import Twin

from synchrotron.testing.simulation.dice import Dice
from synchrotron.testing.simulation.trial import Trial
from synchrotron.testing.simulation.world import Cast


def notes_only(user: str, tables: Iterable[str]) -> str:
    """Policies for what `Trial` says in Python: this user writes nothing but notes."""
    return "".join(
        f"CREATE POLICY notes_only_{table}_{command} ON {table} AS RESTRICTIVE FOR {command} "
        f"{clause} (synchrotron.user_id() <> '{user}');"
        for table in tables
        if table != "note"
        for command, clause in (("INSERT", "WITH CHECK"), ("UPDATE", "USING"), ("DELETE", "USING"))
    )


class TwinTrial(Trial):
    """A trial whose server is a twin."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.plays_both_ways = False
        self.twins: list[Twin] = []

    def cast(self, dice: Dice) -> Cast:
        cast = super().cast(dice)
        policies = ""
        if cast.policy is not None:
            policies = notes_only(cast.users[-1], cast.app.schema.tables)

        def make_server(*args: Any, **options: Any) -> Twin:
            self.twins.append(Twin(*args, policies=policies, **options))
            return self.twins[-1]

        return dataclasses.replace(cast, make_server=make_server, relaxes=False)

    def close(self) -> int:
        """How many requests were answered twice."""
        for twin in self.twins:
            twin.close()
        return sum(twin.requests for twin in self.twins)


def play(seed: int, steps: int) -> int:
    """Play one history; how many requests were compared. Raises `Different` and the rest."""
    trial = TwinTrial(seed=seed, replicas=3, steps=steps)
    try:
        # Not shrunk: each try would cost as much as this one.
        if failure := trial.play().failure:
            raise AssertionError(f"{failure.rule}: {failure.what}")
        for twin in trial.twins:
            for table in trial.app.schema.tables:
                twin.rows(table)
    finally:
        requests = trial.close()
    return requests


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0:20", help="from:to")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    seeds = range(*map(int, options.seeds.split(":")))
    requests = 0
    for seed in seeds:
        try:
            requests += play(seed, options.steps)
        except AssertionError as failure:
            print(f"seed {seed}: {str(failure)[-6000:]}")
            return 1
    print(f"{len(seeds)} histories, {requests} requests answered alike")
    return 0


if __name__ == "__main__":
    sys.exit(main())
