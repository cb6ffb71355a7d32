"""The list on a terminal: one replica, live queries that drive the screen, a key for offline.

    python screen.py alice --server http://127.0.0.1:8000 --token …

Everything that is shown comes from the local file, and every key that changes something runs
an action. Nothing here waits for the network.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import todo
from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, RichLog, Static
from textual.widgets.option_list import Option

from synchrotron import Action, ActionRecord, Outcome, Replica, Row, SyncReport

PROJECTS = """
    SELECT project.id, project.name, count(todo.id) - count(todo.done_by) AS open
    FROM project LEFT JOIN todo ON todo.project_id = project.id
    GROUP BY project.id ORDER BY project.name, project.id
"""
TODOS = "SELECT id, project_id, text, done_by FROM todo WHERE project_id = ? ORDER BY made_at, id"
PROJECT = "SELECT name FROM project WHERE id = ?"
MEMBERS = "SELECT user_id FROM project_member WHERE project_id = ? ORDER BY user_id"

LIGHTS = {"in step": "green", "syncing": "yellow", "offline": "red", "blocked": "bold red"}
PAST = {
    "create_project": "made",
    "invite": "invited",
    "add": "added",
    "finish": "finished",
    "reopen": "reopened",
    "reword": "reworded",
    "remove": "removed",
}
MARKS = {"rejected": ("✗", "red"), "parked": ("✗", "red"), "changed": ("~", "yellow")}


class TodoApp(App[None]):
    """The screen of one user."""

    TITLE = "todo"
    CSS_PATH = "screen.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [
        ("a", "add", "add"),
        ("space", "finish", "done"),
        ("e", "reword", "reword"),
        ("d", "remove", "remove"),
        ("p", "create_project", "project"),
        ("i", "invite", "invite"),
        ("o", "go_offline", "go offline"),
        ("o", "go_online", "go online"),
        ("q", "quit", "quit"),
    ]

    def __init__(self, replica: Replica, user: str, *, offline: bool = False) -> None:
        super().__init__()
        self.replica, self.user = replica, user
        self.offline = asyncio.Event()
        if offline:
            self.offline.set()
        self.project: str | None = None
        self.made: str | None = None
        """A project that was made just now, and is to be shown next."""
        self.todos: dict[str, Row] = {}
        self.seen = {record.id for record in replica.log()}
        self.mine: dict[str, str] = {}
        """What the user did since the start, in words, by the ids of the runs."""

    def compose(self) -> ComposeResult:
        yield Static(id="bar")
        with Horizontal():
            yield OptionList(id="projects")
            yield OptionList(id="todos")
        yield RichLog(id="notices", wrap=True)
        yield Footer()

    def on_mount(self) -> None:
        self.theme = "tokyo-night"
        self.query_one("#projects").border_title = "projects"
        self.query_one("#notices").border_title = "what others did, and what became of yours"
        # The replica calls back from its own threads; a message reaches the screen from any.
        for event in ("state", "synced", "rejected", "changed", "parked"):
            self.replica.on(event, lambda what: self.post_message(Happened(what)))
        self.query_one("#todos").focus()
        self.watch_projects()
        self.show_bar()
        if not self.offline.is_set():
            self.stay_in_step()

    # ---- in step with the server, or not ---------------------------------------------------

    @work(group="sync")
    async def stay_in_step(self) -> None:
        """Sync in the background until the user wants to be offline."""
        async with self.replica.syncing_async():
            await self.offline.wait()

    def action_go_offline(self) -> None:
        self.offline.set()
        self.show_bar()
        self.refresh_bindings()

    def action_go_online(self) -> None:
        self.offline.clear()
        self.stay_in_step()
        self.show_bar()
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Whether a key does something now."""
        if action in ("go_offline", "go_online"):
            return self.offline.is_set() == (action == "go_online")
        return True

    async def action_quit(self) -> None:
        self.workers.cancel_all()  # no live query shows anything while the screen closes
        self.exit()

    # ---- live queries drive the screen -------------------------------------------------------

    @work(group="projects")
    async def watch_projects(self) -> None:
        async for projects in self.replica.live(PROJECTS):
            options = [Option(project_line(row), row["id"]) for row in projects]
            hint = Option(Text("p makes a project", "dim"), disabled=True)
            show(self.query_one("#projects", OptionList), options or [hint], self.made)
            self.made = None
            self.show_title()

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_list.id == "projects" and event.option_id != self.project:
            self.project = event.option_id
            self.watch_todos(event.option_id)

    @work(group="todos", exclusive=True)
    async def watch_todos(self, project: str) -> None:
        """The todos of a project, until another one is chosen."""
        list_ = self.query_one("#todos", OptionList)
        with self.replica.live(TODOS, (project,)) as live:
            async for rows in live:
                self.todos = {row["id"]: row for row in rows}
                options = [Option(todo_line(row), row["id"]) for row in rows]
                hint = Option(Text("a adds something to do", "dim"), disabled=True)
                show(list_, options or [hint])
                self.show_title()

    def show_title(self) -> None:
        """The project's name and who shares it."""
        list_, here = self.query_one("#todos"), (self.project or "",)
        names = [row["name"] for row in self.replica.query(PROJECT, here)]
        users = [row["user_id"] for row in self.replica.query(MEMBERS, here)]
        list_.border_title = "".join(names)
        list_.border_subtitle = f"shared by {', '.join(users)}" if len(users) > 1 else ""

    def show_bar(self) -> None:
        """Who is here, whether in step, and how much waits to be sent."""
        waiting = sum(outcome.state == "pending" for outcome in self.replica.outcomes())
        state = "offline" if self.offline.is_set() else self.replica.state
        light = LIGHTS[state.partition(":")[0]]
        bar = Table.grid(expand=True)
        bar.add_column()
        bar.add_column(justify="right")
        right = Text.assemble(("● ", light), state)
        if waiting:
            right.append(f", {waiting} to send", "yellow")
        bar.add_row(Text.assemble(("todo", "bold"), f"  {self.user}"), right)
        self.query_one("#bar", Static).update(bar)

    # ---- what the replica tells --------------------------------------------------------------

    def on_happened(self, event: Happened) -> None:
        if not self.is_running:
            return  # the screen is closing
        what = event.what
        if not isinstance(what, str):
            self.tell_news()
        if isinstance(what, Outcome):
            mark, style = MARKS[what.state]
            did = self.mine.get(what.id, "something done earlier")
            why = (what.detail or "").removeprefix("Refused: ")
            self.tell(mark, style, f"your {did} was {what.state}: {why}")
        self.show_title()
        self.show_bar()

    def tell_news(self) -> None:
        """What others did that this replica did not know."""
        for record in self.replica.log():
            if record.id not in self.seen:
                self.seen.add(record.id)
                if record.user != self.user:
                    self.tell("•", "cyan", f"{record.user} {self.in_words(record)}")

    def in_words(self, record: ActionRecord) -> str:
        """`finished “Buy milk”`."""
        args = record.args
        found = self.replica.query("SELECT text FROM todo WHERE id = ?", (args.get("todo", ""),))
        what = found[0]["text"] if found else args.get("text") or args.get("user") or "it"
        return f"{PAST[record.name]} “{what}”"

    def tell(self, mark: str, style: str, text: str) -> None:
        line = Text.assemble((f"{datetime.now():%H:%M}  ", "dim"), (f"{mark} ", style), text)
        self.query_one("#notices", RichLog).write(line)

    # ---- what the user does ------------------------------------------------------------------

    def do(self, action: Action[Any, Any], what: str, **args: Any) -> Any:
        """Run an action, here and now; a rule that it breaks is told, and nothing has changed."""
        try:
            run = self.replica.run(action, **args)
        except todo.Refused as refused:
            self.notify(str(refused), severity="warning")
            return None
        self.mine[run.id] = words(action.name, what)
        self.seen.add(run.id)
        self.show_bar()
        return run.result

    @work
    async def action_create_project(self) -> None:
        if name := await self.push_screen_wait(Ask("What is the project called?")):
            self.made = self.do(todo.create_project, name, name=name)

    @work
    async def action_invite(self) -> None:
        if self.project and (user := await self.push_screen_wait(Ask("Who shall join it?"))):
            self.do(todo.invite, user, project=self.project, user=user)

    @work
    async def action_add(self) -> None:
        if self.project and (text := await self.push_screen_wait(Ask("What is to be done?"))):
            self.do(todo.add, text, project=self.project, text=text)

    @work
    async def action_reword(self) -> None:
        if row := self.chosen():
            text = await self.push_screen_wait(Ask("What is to be done?", row["text"]))
            if text and text != row["text"]:
                self.do(todo.reword, text, project=row["project_id"], todo=row["id"], text=text)

    def action_finish(self) -> None:
        if row := self.chosen():
            action = todo.reopen if row["done_by"] else todo.finish
            self.do(action, row["text"], project=row["project_id"], todo=row["id"])

    def action_remove(self) -> None:
        if row := self.chosen():
            self.do(todo.remove, row["text"], project=row["project_id"], todo=row["id"])

    def chosen(self) -> Row | None:
        """The todo that is highlighted."""
        list_ = self.query_one("#todos", OptionList)
        option = list_.highlighted_option
        return self.todos.get(option.id or "") if option else None


class Ask(ModalScreen[str]):
    """A question with one line to answer it; the answer is empty where there is none."""

    BINDINGS = [("escape", "dismiss('')", "never mind")]

    def __init__(self, question: str, answer: str = "") -> None:
        super().__init__()
        self.question, self.answer = question, answer

    def compose(self) -> ComposeResult:
        line = Input(self.answer, select_on_focus=False)
        line.border_title = self.question
        yield line

    def on_input_submitted(self, submitted: Input.Submitted) -> None:
        self.dismiss(submitted.value.strip())


class Happened(Message):
    """What a callback of the replica was given: an outcome, a report, or a state."""

    def __init__(self, what: Outcome | SyncReport | str) -> None:
        super().__init__()
        self.what = what


# ---- how it looks ------------------------------------------------------------------------


def project_line(row: Row) -> Table:
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    line.add_row(Text(row["name"]), Text(str(row["open"]) if row["open"] else "✓", "dim"))
    return line


def todo_line(row: Row) -> Text:
    if row["done_by"]:
        return Text.assemble(
            ("✓ ", "green"), (row["text"], "dim"), (f"  {row['done_by']}", "green")
        )
    return Text.assemble("○ ", row["text"])


def words(action: str, what: str) -> str:
    """`finish “Buy milk”`."""
    return f"{action.replace('_', ' ')} “{what}”"


def show(list_: OptionList, options: Sequence[Option], wanted: str | None = None) -> None:
    """Put options into a list; the highlighted one, or a wanted one, is highlighted again."""
    option, place = list_.highlighted_option, list_.highlighted
    wanted = wanted or (option.id if option else None)
    list_.set_options(options)
    ids = [option.id for option in options]
    if wanted in ids:
        list_.highlighted = ids.index(wanted)
    else:
        list_.highlighted = min(place or 0, len(options) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="A shared to-do list that works offline.")
    parser.add_argument("user", help="who is using it, such as alice")
    parser.add_argument("--file", help="the replica's file; <user>.db if unset")
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--token", default=os.environ.get("TODO_TOKEN"), help="or TODO_TOKEN")
    parser.add_argument("--offline", action="store_true", help="begin offline; o goes online")
    given = parser.parse_args()
    if not given.token:
        parser.error("a token is needed: synchrotron token --user … prints one")
    file = given.file or f"{given.user}.db"
    with todo.app.open(file, server=given.server, token=given.token, user=given.user) as replica:
        TodoApp(replica, given.user, offline=given.offline).run()


if __name__ == "__main__":
    main()
