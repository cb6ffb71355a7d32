"""The demo's story: who does what at which minute while everybody is offline."""

from __future__ import annotations

from typing import Any, NamedTuple

from synchrotron import Action
from synchrotron.cli import market

LAPTOP, PHONE, TABLET = "Alice's laptop", "Alice's phone", "Bob's tablet"
OWNERS = {LAPTOP: "alice", PHONE: "alice", TABLET: "bob"}
"""The replicas, in the order in which they sync, and their users."""


class Step(NamedTuple):
    """One action by someone at some minute after nine."""

    minute: int
    who: str
    does: str
    action: Action[..., str]
    args: dict[str, Any]


JARS = 5
STEPS = [
    Step(1, TABLET, "sells 3 jars of honey", market.sell, {"product": "honey", "jars": 3}),
    Step(2, PHONE, "counts 10 visitors", market.count, {"counter": "visitors", "by": 10}),
    Step(3, TABLET, "throws the price list away", market.throw_away, {"note": "prices"}),
    Step(4, LAPTOP, "sells 4 jars of honey", market.sell, {"product": "honey", "jars": 4}),
    Step(5, TABLET, "claims a task: bake bread", market.claim, {"task": "bake bread"}),
    Step(6, PHONE, "claims a task: bake bread", market.claim, {"task": "bake bread"}),
    Step(
        7,
        LAPTOP,
        "rewrites the price list",
        market.rewrite,
        {"note": "prices", "text": "honey: 6"},
    ),
    Step(8, LAPTOP, "counts 1 visitor", market.count, {"counter": "visitors", "by": 1}),
    Step(9, LAPTOP, "sells 1 jar of honey", market.sell, {"product": "honey", "jars": 1}),
    Step(10, TABLET, "counts 2 visitors", market.count, {"counter": "visitors", "by": 2}),
    Step(11, TABLET, "sells 3 jars of honey", market.sell, {"product": "honey", "jars": 3}),
]
VISITORS = [step.args["by"] for step in STEPS if step.action is market.count]
