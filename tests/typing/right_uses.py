"""Uses of the public names that type checkers must accept. Never run, only checked."""

from dataclasses import dataclass
from typing import reveal_type

from synchrotron import Action, App, Context, Replica, Run

app = App("todo", schema="CREATE TABLE ...")


@dataclass
class Todo:
    id: str
    text: str


@app.action
def create_todo(ctx: Context, *, project_id: str, text: str) -> str:
    return ctx.new_id("todo", project_id, text)


@app.action(audience="project:{project_id}", version=2)
def finish(ctx: Context, todo: str, project_id: str = "p1") -> None:
    # An action that is called from another is part of it.
    reveal_type(create_todo(ctx, project_id=project_id, text=todo))  # reveals str


@app.action()
def empty(ctx: Context) -> int:
    return len(ctx.execute("DELETE FROM todo RETURNING id"))


def takes_any_text_action(action: Action[..., str]) -> None: ...


def runs(replica: Replica) -> None:
    run = replica.run(create_todo, project_id="p1", text="Buy milk")
    reveal_type(run)  # reveals Run[str]
    reveal_type(run.result)  # reveals str
    replica.run(finish, "t1", project_id="p1")
    reveal_type(replica.run(finish, todo="t1"))  # reveals Run[None]
    reveal_type(replica.run(empty).result)  # reveals int
    takes_any_text_action(create_todo)


def reads(replica: Replica) -> None:
    reveal_type(replica.query("SELECT * FROM todo", into=Todo))  # reveals list[Todo]


def opens() -> Run[str]:
    with app.open("alice.db", user="alice") as replica:
        reveal_type(replica)  # reveals Replica
        return replica.run(create_todo, project_id="p1", text="Buy milk")
