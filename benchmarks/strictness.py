"""What strict mode and SQLAlchemy cost who uses them; who does not, pays for neither.

One row an action, on a file, in turns: by SQL, by the same in strict mode, by a construct
of SQLAlchemy and by its session. (`local_run` is what it was before either existed: they
add to a run three questions whether something is None.)
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Computed, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.measuring import in_turns, tell
from synchrotron import App, Context

TURNS = 50
TIMES = 50


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
    audience_key: Mapped[str] = mapped_column(Computed("'user:alice'"))


app = App("strictness", schema=Base.metadata)


@app.action
def by_sql(ctx: Context, *, id: str) -> None:
    ctx.execute("INSERT INTO note (id, text) VALUES (?, ?)", (id, "Buy milk"))


@app.action
def by_construct(ctx: Context, *, id: str) -> None:
    ctx.execute(insert(Note).values(id=id, text="Buy milk"))


@app.action
def by_session(ctx: Context, *, id: str) -> None:
    ctx.session.add(Note(id=id, text="Buy milk"))


def main() -> None:
    with TemporaryDirectory() as folder, ExitStack() as opened:
        plain, strict = (
            opened.enter_context(
                app.open(Path(folder) / f"{strict}.db", user="alice", strict=strict)
            )
            for strict in (False, True)
        )
        runs = in_turns(
            TURNS,
            times=TIMES,
            sql=lambda: plain.run(by_sql, id=str(uuid.uuid4())),
            strict=lambda: strict.run(by_sql, id=str(uuid.uuid4())),
            construct=lambda: plain.run(by_construct, id=str(uuid.uuid4())),
            session=lambda: plain.run(by_session, id=str(uuid.uuid4())),
        )
        one = select(Note).where(Note.id == "none")
        queries = in_turns(
            TURNS,
            times=TIMES,
            sql=lambda: plain.query("SELECT * FROM note WHERE id = 'none'"),
            construct=lambda: plain.query(one),
        )
    tell(
        f"strictness: medians of {TURNS} turns of {TIMES}, on files",
        ["work", "us", "of SQL"],
        [
            *([f"run, {name}", us, us / runs["sql"]] for name, us in runs.items()),
            *([f"query, {name}", us, us / queries["sql"]] for name, us in queries.items()),
        ],
    )


if __name__ == "__main__":
    main()
