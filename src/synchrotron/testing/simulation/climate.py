"""Climates: what may go wrong in one history, and how often.

Each seed draws a climate of its own, in which some kinds of trouble are frequent and
others absent ("swarm testing", Groce et al., ISSTA 2012): where everything happens
always, most of it hides the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from synchrotron.testing.simulation.dice import Dice

ORDINARY: Mapping[str, int] = {"sync": 70, "decide": 4}
"""Step kinds that are no trouble, with their weights. Actions are not among them: two of
three steps are."""
TROUBLE: Mapping[str, int] = {
    "join": 6,
    "prune": 26,
    "prune server": 9,
    "clock": 20,
    "back up server": 8,
    "restore server": 8,
    "membership": 30,
    "rights": 30,
}
ON_FILES: Mapping[str, int] = {
    "crash": 14,
    "power cut": 14,
    "interrupt": 8,
    "copy": 14,
    "restore": 14,
    "clone": 5,
    "upgrade": 40,
}
"""Trouble that only a file can get into."""


@dataclass(frozen=True)
class Climate:
    """What may happen in a history."""

    weights: Mapping[str, int] = field(default_factory=lambda: ORDINARY)
    """How often each kind of step comes."""
    files: bool = False
    """Whether replicas are on files, which can crash; else they are in memory."""
    latency_ms: int = 40
    """The longest that a message takes, unless it is late."""
    lost: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    crash: float = 0.0
    """At each commit boundary of an exchange."""
    meanwhile: float = 0.0
    """How likely something is done on a device while an answer to it is on its way."""
    older: float = 0.0
    """How likely a replica is to start with an older version of the application."""
    page_events: int | None = None
    max_backdate_ms: int | None = None
    undo: float = 0.0
    """How likely someone undoes a recent action instead of running another."""


CALM = Climate()


def draw_climate(dice: Dice, *, membership: bool, rights: bool, older: bool) -> Climate:
    """The climate of a seed. `membership`, `rights`: whether they change from outside."""
    files = dice.chance(0.55)
    trouble = {**TROUBLE, **(ON_FILES if files else {})}
    always = {"membership": membership, "rights": rights}
    for kind in trouble:
        if kind in always or dice.chance(0.5):
            trouble[kind] *= always.get(kind, False)
    for first, second in (("back up server", "restore server"), ("copy", "restore")):
        trouble[second] = trouble.get(first, 0)

    def sometimes(most: float) -> float:
        return dice.random() * most if dice.chance(0.6) else 0.0

    return Climate(
        weights={**ORDINARY, **trouble, "decide": dice.choice((4, 40))},
        files=files,
        latency_ms=dice.choice((2, 20, 60, 300)),
        lost=sometimes(dice.choice((0.2, 0.6))),
        repeated=sometimes(0.2),
        late=sometimes(0.15),
        crash=sometimes(0.05) if files else 0.0,
        meanwhile=sometimes(0.4),
        older=dice.choice((0.0, 0.6)) if older else 0.0,
        page_events=dice.choice((None, None, None, 3, 9)),
        max_backdate_ms=dice.choice((None, None, None, 100_000)),
        # Drawn last, so that histories without it are as they were.
        undo=dice.choice((0.0, 0.0, 0.0, 0.2)),
    )
