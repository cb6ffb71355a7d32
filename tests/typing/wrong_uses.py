"""Uses that type checkers must refuse, each on its line. Never run, only checked."""

from synchrotron import App, Context, Replica

app = App("todo", schema="CREATE TABLE ...")


@app.action
def create_todo(ctx: Context, *, project_id: str, text: str) -> str:
    return ctx.new_id("todo", project_id, text)


@app.action(version=2)
def finish(ctx: Context, *, todo: str) -> None:
    create_todo(ctx, project_id="p1")  # error


def undecorated(ctx: Context, *, text: str) -> str:
    return text


def runs(replica: Replica) -> None:
    # Missing.
    replica.run(create_todo, project_id="p1")  # error
    # Misnamed.
    replica.run(create_todo, project="p1", text="Buy milk")  # error
    # Mistyped.
    replica.run(create_todo, project_id=1, text="Buy milk")  # error
    # One too many.
    replica.run(create_todo, project_id="p1", text="Buy milk", done=True)  # error
    # Arguments that must be named.
    replica.run(create_todo, "p1", "Buy milk")  # error
    # Not an action.
    replica.run(undecorated, text="Buy milk")  # error
    replica.run("create_todo", project_id="p1", text="Buy milk")  # error
    # The result of another type.
    number: int = replica.run(create_todo, project_id="p1", text="Buy milk").result  # error
    print(number)


@app.action  # error
def without_context(text: str) -> str:
    return text


@app.action("finish")  # error
def named_by_position(ctx: Context, *, todo: str) -> None: ...
