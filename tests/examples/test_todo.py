"""The to-do list on a terminal, as its users meet it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import screen
import todo
from tests.cli.test_demo import command
from tests.cli.test_service import running_command
from tests.postgres.cluster import drop_database, new_database
from tests.server.running import free_port
from textual.widgets import Input, OptionList, RichLog

from synchrotron import Replica
from synchrotron.testing import MemoryServer

EXAMPLE = Path(screen.__file__).parent


# ---- one screen in this process -------------------------------------------------------------


class Screen:
    """A screen that a test presses keys on.

    The pilot's own keys wait until the process is idle, which takes its time on a busy machine.
    """

    def __init__(self, app: screen.TodoApp) -> None:
        self.app = app

    async def press(self, *keys: str) -> None:
        for key in keys:
            self.app.simulate_key(key)
            await asyncio.sleep(0.02)

    async def answer(self, key: str, text: str) -> None:
        """A key that asks something, and the answer after what stands there already."""
        self.app.simulate_key(key)
        await self.until(lambda: isinstance(self.app.screen, screen.Ask) and self.app.focused)
        self.app.screen.query_one(Input).value += text  # as typing it, and much faster
        self.app.simulate_key("enter")
        await self.until(lambda: not isinstance(self.app.screen, screen.Ask))

    async def shows(self, *words: str) -> None:
        await self.until(lambda: all(word in self.text for word in words), words)

    async def sent(self) -> None:
        """The server has all that was done here."""
        outcomes = self.app.replica.outcomes
        await self.until(lambda: all(outcome.state != "pending" for outcome in outcomes()), "sent")

    async def until(self, holds: Callable[[], object], what: object = "") -> None:
        deadline_s = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline_s, f"{what} is not so on\n{self.text}"
            await asyncio.sleep(0.01)

    @property
    def text(self) -> str:
        """What the screen shows, without its frames."""
        lists = [str(option.prompt) for option in self.app.query_one("#todos", OptionList).options]
        notices = [strip.text for strip in self.app.query_one("#notices", RichLog).lines]
        bar = self.app.query_one("#bar").render_line(0).text
        todos = self.app.query_one("#todos")
        return "\n".join([bar, f"{todos.border_title} {todos.border_subtitle}", *lists, *notices])


def on_a_screen(
    use: Callable[[Screen, Replica, Replica], Awaitable[None]], *, offline: bool = False
) -> None:
    """Use Alice's screen; Bob has a replica of his own."""
    server = MemoryServer(todo.app)
    with (
        todo.app.open(":memory:", transport=server.connect("alice")) as alice,
        todo.app.open(":memory:", transport=server.connect("bob")) as bob,
    ):

        async def play() -> None:
            app = screen.TodoApp(alice, "alice", offline=offline)
            async with app.run_test(size=(100, 24)):
                await use(Screen(app), alice, bob)

        asyncio.run(play())


def test_a_project_is_made_filled_and_shared_by_keys() -> None:
    async def use(alice: Screen, replica: Replica, bob: Replica) -> None:
        await alice.answer("p", "Home")
        await alice.shows("Home", "a adds something")
        await alice.answer("a", "Buy milk")
        await alice.answer("a", "Bake bread")
        await alice.answer("i", "bob")
        await alice.shows("in step", "Home shared by alice, bob", "○ Buy milk", "○ Bake bread")
        await alice.press("home", "space")
        await alice.shows("✓ Buy milk  alice")
        await alice.press("down")
        await alice.answer("e", "!")
        await alice.shows("✓ Buy milk  alice", "○ Bake bread!")
        await alice.press("home", "space")
        await alice.shows("○ Buy milk")
        await alice.press("down", "d")
        await alice.until(lambda: "Bake bread" not in alice.text)
        await alice.shows("○ Buy milk")
        await alice.sent()
        bob.sync()
        assert [row["text"] for row in bob.query("SELECT text FROM todo")] == ["Buy milk"]

    on_a_screen(use)


def test_what_others_did_is_told_and_shown_without_a_key() -> None:
    async def use(alice: Screen, replica: Replica, bob: Replica) -> None:
        await alice.answer("p", "Home")
        await alice.shows("Home", "a adds something")
        await alice.answer("a", "Buy milk")
        await alice.answer("i", "bob")
        await alice.shows("in step", "shared by")
        await alice.sent()
        bob.sync()
        [milk] = bob.query("SELECT id, project_id FROM todo")
        bob.run(todo.finish, project=milk["project_id"], todo=milk["id"])
        bob.sync()
        await alice.shows("✓ Buy milk  bob", "bob finished “Buy milk”")

    on_a_screen(use)


def test_offline_all_goes_on_and_what_waits_is_counted() -> None:
    async def use(alice: Screen, replica: Replica, bob: Replica) -> None:
        await alice.shows("offline")
        await alice.answer("p", "Home")
        await alice.shows("Home", "a adds something")
        await alice.answer("a", "Buy milk")
        await alice.shows("○ Buy milk")
        await alice.press("space")
        await alice.shows("offline, 3 to send", "✓ Buy milk  alice")
        await alice.press("o")
        await alice.shows("in step")
        await alice.until(lambda: "to send" not in alice.text)
        await alice.press("o")
        await alice.shows("offline")

    on_a_screen(use, offline=True)


def test_a_finish_that_came_too_late_is_told_once_with_the_reason() -> None:
    async def use(alice: Screen, replica: Replica, bob: Replica) -> None:
        await alice.answer("p", "Home")
        await alice.shows("Home", "a adds something")
        await alice.answer("a", "Buy milk")
        await alice.answer("i", "bob")
        await alice.shows("in step", "shared by", "○ Buy milk")
        await alice.sent()
        await alice.press("o")
        await alice.shows("offline")
        bob.sync()
        [milk] = bob.query("SELECT id, project_id FROM todo")
        bob.run(todo.finish, project=milk["project_id"], todo=milk["id"])
        bob.sync()
        await alice.press("home", "space")
        await alice.shows("✓ Buy milk  alice", "1 to send")
        await alice.press("o")
        await alice.shows("✓ Buy milk  bob", "was rejected: bob had done it already", "in step")
        assert alice.text.count("was rejected") == 1

    on_a_screen(use)


def test_a_rule_that_is_broken_here_and_now_is_told_and_changes_nothing() -> None:
    async def use(alice: Screen, replica: Replica, bob: Replica) -> None:
        await alice.answer("p", "Home")
        await alice.shows("Home", "a adds something")
        await alice.answer("i", "alice")
        await alice.until(lambda: alice.app._notifications)
        assert [str(n.message) for n in alice.app._notifications] == ["alice is a member already"]
        await alice.press("space", "d", "e", "a", "escape")
        assert len(replica.log()) == 1

    on_a_screen(use)


@pytest.mark.slow
def test_the_examples_own_tests_pass() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=EXAMPLE,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- two screens in processes of their own, and a server in a third --------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """`synchrotron dev todo:app` on PostgreSQL: what a screen needs to know."""
    database, port = new_database(), free_port()
    here = {"TMPDIR": str(tmp_path)}
    dev = ("dev", "todo:app", "--database", database, "--port", str(port))
    with running_command(*dev, port=port, cwd=EXAMPLE, **here):
        tokens = {
            user: command(
                "token", "--dev", "todo:app", "--user", user, cwd=EXAMPLE, **here
            ).stdout.strip()
            for user in ("alice", "bob")
        }
        yield {"url": f"http://127.0.0.1:{port}", **tokens}
    drop_database(database)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_two_screens_edit_apart_meet_again_and_agree(
    server: dict[str, str], tmp_path: Path
) -> None:
    from tests.examples.terminal import Terminal  # of Unix alone

    def opened(user: str) -> Terminal:
        return Terminal(
            sys.executable, "screen.py", user, "--file", str(tmp_path / f"{user}.db"),
            "--server", server["url"], cwd=EXAMPLE, TODO_TOKEN=server[user],
        )  # fmt: skip

    with opened("alice") as alice, opened("bob") as bob:
        alice.shows("in step")
        alice.press("p")
        alice.shows("What is the project called?")
        alice.press("Home\r")
        alice.shows("Home", "a adds something to do")
        for text in ("Buy milk", "Bake bread", "Sweep"):
            alice.press("a")
            alice.shows("What is to be done?")
            alice.press(f"{text}\r")
            alice.shows(f"○ {text}")
        alice.press("i")
        alice.shows("Who shall join it?")
        alice.press("bob\r")
        alice.shows("shared by alice, bob", "in step")
        bob.shows("○ Buy milk", "○ Bake bread", "○ Sweep", "in step")

        alice.press("o")
        alice.shows("offline")
        # Alice finishes the milk first, Bob the bread; each finishes the other's after that.
        alice.press("\x1b[H ")
        alice.shows("✓ Buy milk  alice", "1 to send")
        bob.press("\x1b[H\x1b[B ")
        bob.shows("✓ Bake bread  bob", "in step")
        bob.press("\x1b[H ")
        bob.shows("✓ Buy milk  bob")
        alice.press("\x1b[H\x1b[B ")
        alice.shows("✓ Bake bread  alice", "2 to send")
        alice.press("a")
        alice.shows("What is to be done?")
        alice.press("Oil the door\r")
        alice.shows("○ Oil the door", "3 to send")
        assert "Oil the door" not in bob.text
        assert "✓ Bake bread  bob" in bob.text

        alice.press("o")
        both = ("✓ Buy milk  alice", "✓ Bake bread  bob", "○ Sweep", "○ Oil the door", "in step")
        alice.shows(*both, "your finish “Bake bread” was rejected: bob had done it already")
        bob.shows(*both, "your finish “Buy milk” was rejected: alice had done it already")
        assert "to send" not in alice.text + bob.text

        for user in (alice, bob):
            user.press("q")
            assert user.ends() == 0
    for user in ("alice", "bob"):
        file = str(tmp_path / f"{user}.db")
        assert command("doctor", file, "--app", "todo:app", cwd=EXAMPLE).returncode == 0
