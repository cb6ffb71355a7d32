"""`Simulation`: a random history of an application's own actions, and what it found.

    Simulation(app, seed=7, replicas=5, steps=200, invariants=["SELECT …"]).run()

One seed is one history, byte for byte, on every Python and under every PYTHONHASHSEED.
"""

from __future__ import annotations

import tempfile
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from synchrotron.application import App
from synchrotron.errors import UsageError
from synchrotron.testing.simulation.climate import Climate, draw_climate
from synchrotron.testing.simulation.dice import Dice
from synchrotron.testing.simulation.sampling import require_samples
from synchrotron.testing.simulation.shrink import shrink
from synchrotron.testing.simulation.steps import Step, draw_steps
from synchrotron.testing.simulation.violation import Violation
from synchrotron.testing.simulation.world import Cast, Tally, World, narrowed

USERS = ("ann", "bob", "cyd", "dan", "eve")
SHRINK_TRIES_MAX = 400
BOTH_WAYS_EVERY = 8
"""One seed of so many is played both ways: it takes twice the time."""


class Failure(NamedTuple):
    """A broken rule."""

    rule: str
    what: str


@dataclass
class Result:
    """What came of one history, or of many."""

    seeds: int = 0
    digest: str = ""
    """Of everything that happened; of many histories, nothing."""
    actions: dict[str, Tally] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    """`rolled back` counts histories; the rest is of `SyncReport`, and `commits`."""
    failure: Failure | None = None
    story: list[str] = field(default_factory=list)
    course: list[tuple[str, bytes]] = field(default_factory=list)
    """What was sent and stored, with the digest up to there."""

    def add(self, other: Result) -> None:
        self.seeds += other.seeds
        for name, tally in other.actions.items():
            mine = self.actions.get(name, Tally())
            self.actions[name] = Tally(*map(sum, zip(mine, tally, strict=True)))
        self.faults.update(other.faults)
        self.totals.update(other.totals)

    @property
    def runs(self) -> Tally:
        """Of all actions together."""
        return Tally(*map(sum, zip(Tally(), *self.actions.values(), strict=True)))


class SimulationFailed(AssertionError):
    """A history broke a rule. The message tells it, step by step."""

    def __init__(self, failure: Failure, message: str, steps: Sequence[Step]) -> None:
        super().__init__(message)
        self.failure = failure
        self.steps = steps


class Simulation:
    """A random history of `app`, from a seed.

    `replicas` devices of `users` run actions with arguments from their samples, and sync over
    a network that loses, repeats and delays; devices crash, lose power and are put back to
    copies, clocks jump, history is pruned, code is old, the server is put back. `steps` counts
    all of this; about two of three are actions. `invariants` are queries that must give no row,
    on any replica and on the server. `audiences` gives memberships, as for `MemoryServer`.
    With `undo` users undo actions too: for applications that offer it, and invariants that bear
    it, since an undo goes row by row.
    Raises `ActionDefinitionError` for actions without a sample.
    """

    command = "synchrotron simulate MODULE:APP"
    """How it is run again; the command line knows better."""

    def __init__(
        self,
        app: App,
        *,
        seed: int = 0,
        replicas: int = 3,
        steps: int = 96,
        invariants: Iterable[str] = (),
        users: Sequence[str] | None = None,
        audiences: Mapping[str, Set[str]] | None = None,
        climate: Climate | None = None,
        undo: bool = False,
    ) -> None:
        require_samples(app)
        if replicas < 1 or steps < 0:
            raise UsageError("a simulation needs at least one replica, and no fewer than 0 steps")
        self.app = app
        self.seed = seed
        self.replicas = replicas
        self.count = steps
        self.invariants = tuple(invariants)
        self._users = tuple(users) if users else None
        self._audiences = audiences
        self._climate = climate
        self._undo = undo
        self.plays_both_ways = seed % BOTH_WAYS_EVERY == 0
        """Whether the history is played once more with replays of everything (S12)."""

    # ---- what the seed draws ------------------------------------------------------

    def cast(self, dice: Dice) -> Cast:
        """Who takes part."""
        # One user alone sees everything, and serial equivalence holds; several do not.
        users = self._users or USERS[: 1 if dice.chance(0.4) else max(1, (self.replicas + 1) // 2)]
        names = sorted({name for name, _ in self.app.actions})
        lacking = frozenset(dice.sample(names, len(names) // 3))
        older = [narrowed(self.app, lacking)] if lacking else []
        sets = None if self._audiences is None else {u: set(a) for u, a in self._audiences.items()}
        return Cast(
            app=self.app,
            users=users,
            replicas=self.replicas,
            older=older,
            sets=sets,
            churn=sets is not None and dice.chance(0.3),
            invariants=self.invariants,
        )

    @cached_property
    def _drawn(self) -> tuple[Cast, Climate]:
        dice = Dice(self.seed, "cast")
        cast = self.cast(dice)
        if self._climate is not None:
            return cast, self._climate
        climate = draw_climate(
            dice, membership=cast.churn, rights=cast.relaxes, older=bool(cast.older)
        )
        return cast, climate if self._undo else replace(climate, undo=0.0)

    @cached_property
    def steps(self) -> list[Step]:
        """The history as it is drawn."""
        return draw_steps(Dice(self.seed, "steps"), self._drawn[1], self.count)

    # ---- playing it ---------------------------------------------------------------

    def run(self) -> Result:
        """Play the history. Raises `SimulationFailed`, with the shortest story found."""
        result = self.play()
        if result.failure is not None:
            raise self.explained(result.failure)
        return result

    def play(self, only: Collection[int] | None = None) -> Result:
        """Play the history, or only the steps with these numbers; a failure is in the result."""
        steps = self.steps if only is None else [s for s in self.steps if s.number in only]
        return self._play(steps)

    def _play(self, steps: Sequence[Step]) -> Result:
        result = self._play_once(steps, replay_all=False)
        if result.failure is None and self.plays_both_ways:
            other = self._play_once(steps, replay_all=True)
            result.failure = other.failure or _parting(result, other)
        return result

    def _play_once(self, steps: Sequence[Step], *, replay_all: bool) -> Result:
        cast, climate = self._drawn
        with tempfile.TemporaryDirectory(prefix="synchrotron-", ignore_cleanup_errors=True) as name:
            world = World(
                cast, climate, self.seed, Path(name), replay_all, is_compared=self.plays_both_ways
            )
            failure = _failure_of(world, steps)
            world.close()
        totals = Counter(
            {field: getattr(world.report, field) for field in world.report.__struct_fields__}
        )
        totals["rolled back"] = int(world.report.replayed > 0)
        totals["commits"] = world.audit.commits
        totals["serial"] = int(world.audit.is_serial)
        return Result(
            seeds=1,
            digest=world.story.digest,
            actions=world.actions,
            faults=world.story.faults,
            totals=totals,
            failure=failure,
            story=world.story.lines,
            course=world.story.course,
        )

    # ---- explaining a failure -----------------------------------------------------

    def explained(self, failure: Failure, only: Collection[int] | None = None) -> SimulationFailed:
        """The failure with the fewest steps that show it, told for people."""
        steps = [s for s in self.steps if only is None or s.number in only]

        def fails(some: Sequence[Step]) -> bool:
            found = self._play(some).failure
            return found is not None and found.rule == failure.rule

        kept = shrink(steps, fails, SHRINK_TRIES_MAX)
        result = self._play(kept)
        shown = result.failure or failure
        return SimulationFailed(shown, self._message(shown, kept, result.story), kept)

    def _message(self, failure: Failure, steps: Sequence[Step], story: Sequence[str]) -> str:
        numbers = ",".join(str(step.number) for step in steps)
        return "\n".join(
            (
                f"seed {self.seed} of {self.app.name!r} breaks {failure.rule}: {failure.what}",
                "",
                f"What happened, in the {len(steps)} of {len(self.steps)} steps that it takes:",
                "",
                *story,
                "",
                "Run it again with:",
                f"  {self.command} --seed {self.seed} --replicas {self.replicas} "
                f"--steps {self.count} --only {numbers or 'none'}",
            )
        )


def _parting(result: Result, other: Result) -> Failure | None:
    """Where leaving actions in place came to something else than running them again (S12)."""
    if result.digest == other.digest:
        return None
    pairs = zip(result.course, other.course, strict=False)
    what = next((mine[0] for mine, its in pairs if mine != its), "its end")
    return Failure("S12", f"leaving in place and replaying all part at {what}")


def _failure_of(world: World, steps: Iterable[Step]) -> Failure | None:
    try:
        world.open()
        for step in steps:
            world.step(step)
        world.settle()
        world.check()
    except Violation as violation:
        return Failure(violation.rule, violation.what)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        rule = f"{type(error).__name__} in {where.name}"
        return Failure(rule, f"{error}\n{traceback.format_exc()}")
    return None
