"""Draws docs/images/todo.png: `pip install cairosvg; python -m tests.examples.picture`.

Bob's and Alice's replicas meet as in the tests, and Alice's screen is drawn.
"""

from __future__ import annotations

import asyncio
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "examples" / "todo"))

import todo  # noqa: E402
from tests.examples.test_todo import Screen, on_a_screen  # noqa: E402

from synchrotron import Replica  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "todo.png"
FONT = "DejaVu Sans Mono"


async def meet(alice: Screen, replica: Replica, bob: Replica) -> None:
    await alice.answer("p", "Garden")
    await alice.answer("p", "Home")
    await alice.shows("Home", "a adds something")
    for text in ("Buy milk", "Bake bread", "Sweep the stairs", "Call the plumber"):
        await alice.answer("a", text)
    await alice.answer("i", "bob")
    await alice.shows("in step", "shared by")
    bob.sync()
    rows = bob.query("SELECT id, project_id, text FROM todo")
    args = {row["text"]: {"project": row["project_id"], "todo": row["id"]} for row in rows}
    bob.run(todo.finish, **args["Sweep the stairs"])
    bob.sync()
    await alice.shows("bob finished “Sweep")
    await alice.press("o")
    await alice.shows("offline")
    bob.run(todo.finish, **args["Bake bread"])
    bob.run(todo.add, project=args["Bake bread"]["project"], text="Feed the cat")
    bob.sync()
    await alice.press("home", "space", "down", "space")
    await alice.answer("a", "Oil the door")
    await alice.press("o")
    await alice.shows("was rejected", "Feed the cat", "in step")
    await asyncio.sleep(0.3)
    draw(alice.app.export_screenshot(title="todo"))


def draw(svg: str) -> None:
    """The picture, in a font that is on this machine."""
    cairosvg: Any = import_module("cairosvg")
    PICTURE.parent.mkdir(exist_ok=True)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", FONT)
    cairosvg.svg2png(bytestring=svg.encode(), write_to=str(PICTURE), scale=1.5)


if __name__ == "__main__":
    on_a_screen(meet)
