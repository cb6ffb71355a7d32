"""Actions through SQLAlchemy, on the action's own connection and transaction."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import JSON, Float, bindparam, cast, delete, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import IntegrityError, ResourceClosedError
from sqlalchemy.orm import Session
from tests.sqlalchemy import blog
from tests.sqlalchemy.blog import Author, Mood, Post

from synchrotron import App, Context, Replica
from synchrotron.errors import (
    ImpureAction,
    QueryError,
    StatementRefused,
    ValueRefused,
    WriteOutsideAction,
)
from synchrotron.testing import MemoryServer

NOW_MS = 1_700_000_000_123
NOW = datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)


@pytest.fixture
def app() -> App:
    """The blog, for actions of one test alone."""
    return App("blog", schema=blog.Base.metadata)


@pytest.fixture(params=[False, True], ids=["", "strict"])
def strict(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def replica(app: App, strict: bool) -> Iterator[Replica]:
    with app.open(":memory:", user="alice", strict=strict, clock=lambda: NOW_MS) as opened:
        yield opened


def perform(app: App, replica: Replica, function: Any) -> Any:
    """Run a function of the context as an action."""

    def perform(ctx: Context) -> Any:
        return function(ctx)

    action = app.action(name=f"perform{len(app.actions)}")(perform)
    return replica.run(action).result


def write(ctx: Context) -> None:
    author = Author(id="a", name="Ann")
    ctx.session.add(author)
    author.posts = [
        Post(title="one", at=ctx.now, price=Decimal("1.50"), tags={"b": 1, "a": [None]}),
        Post(title="two"),
    ]


# ---- the session -------------------------------------------------------------------------


def test_what_a_session_holds_is_written_at_the_end_of_the_action(
    app: App, replica: Replica
) -> None:
    perform(app, replica, write)
    rows = replica.query("SELECT * FROM post ORDER BY title")
    assert [(row["title"], row["author_id"], row["published"]) for row in rows] == [
        ("one", "a", False), ("two", "a", False)
    ]  # fmt: skip
    assert rows[0]["at"] == NOW
    assert rows[0]["tags"] == {"a": [None], "b": 1}
    assert rows[1]["tags"] is None


def test_keys_that_are_left_out_are_made_by_the_context(app: App, replica: Replica) -> None:
    def create(ctx: Context) -> Any:
        author = Author(name="Ann")
        ctx.session.add(author)
        ctx.session.flush()
        posts = [Post(title=title, author_id=author.id) for title in ("x", "y")]
        ctx.session.add_all(posts)
        ctx.session.flush()
        return author.id, author.audience_key, [post.id for post in posts]

    author, audience, posts = perform(app, replica, create)
    assert uuid.UUID(author).version == 8
    assert audience == "all"
    assert all(post.version == 8 for post in posts)
    found = replica.query("SELECT id FROM post ORDER BY title")
    assert [row["id"] for row in found] == posts


def test_two_replicas_replay_models_to_the_same_rows() -> None:
    server = MemoryServer(blog.app, {"alice": {"all"}, "bob": {"all"}})
    now = [NOW_MS]

    def clock() -> int:
        now[0] += 1
        return now[0]

    a, b = (
        blog.app.open(":memory:", transport=server.connect(user), clock=clock)
        for user in ("alice", "bob")
    )
    with a, b:
        a.run(blog.sign_up, name="Ann", titles=["one", "two"])
        a.sync()
        b.sync()
        # Bob's comes first, offline, and changes what Alice's comes to.
        b.run(blog.publish, title="one")
        a.run(blog.publish, title="two")
        assert a.run(blog.price_all, price=Decimal("3.20")).result == 1
        b.sync()
        a.sync()
        b.sync()
        a.sync()
        expected = server.rows("post")
        assert [row["price"] for row in expected] == [Decimal("3.20")] * 2
        for replica in (a, b):
            rows = replica.query("SELECT * FROM post ORDER BY id")
            assert [dict(row) for row in rows] == expected


def test_commit_flushes_and_rollback_takes_back_what_was_done_since(
    app: App, replica: Replica
) -> None:
    def work(ctx: Context) -> None:
        session = ctx.session
        session.add(Author(id="a", name="Ann"))
        session.commit()
        session.add(Author(id="b", name="Bob"))
        session.flush()
        session.rollback()
        session.add(Author(id="c", name="Cyd"))
        session.commit()

    perform(app, replica, work)
    found = replica.query("SELECT id FROM author ORDER BY id")
    assert [row["id"] for row in found] == ["a", "c"]


def test_an_action_that_raises_leaves_nothing_of_its_session(app: App, replica: Replica) -> None:
    def work(ctx: Context) -> None:
        ctx.session.add(Author(id="a", name="Ann"))
        ctx.session.commit()
        raise LookupError("no")

    with pytest.raises(LookupError):
        perform(app, replica, work)
    assert replica.query("SELECT * FROM author") == []
    perform(app, replica, write)  # and the next one works
    assert len(replica.query("SELECT * FROM post")) == 2


def test_a_session_whose_transaction_is_gone_hides_no_error(app: App) -> None:
    """SQLite itself ends a transaction when, for one, the disk is full."""
    with app.open(":memory:", user="alice", strict=False) as replica:

        def work(ctx: Context) -> None:
            ctx.session.add(Author(id="a", name="Ann"))
            ctx.session.flush()
            replica._engine.store.writer.execute("ROLLBACK")
            raise LookupError("what went wrong")

        with pytest.raises(LookupError, match="what went wrong"):
            perform(app, replica, work)
        perform(app, replica, write)
        assert len(replica.query("SELECT * FROM post")) == 2


def test_a_violated_constraint_is_sqlalchemys_and_can_be_caught(app: App, replica: Replica) -> None:
    def twice(ctx: Context) -> str:
        ctx.session.add(Author(id="a", name="Ann"))
        ctx.session.flush()
        try:
            with ctx.session.begin_nested():
                ctx.session.add(Author(id="b", name="Ann"))
        except IntegrityError as error:
            ctx.session.add(Author(id="c", name="Cyd"))
            return str(error.orig)
        return "nothing"

    assert "UNIQUE constraint failed: author.name" in perform(app, replica, twice)
    found = replica.query("SELECT id FROM author ORDER BY id")
    assert [row["id"] for row in found] == ["a", "c"]

    with pytest.raises(IntegrityError, match=r"author\.name"):
        perform(app, replica, lambda ctx: ctx.session.add(Author(id="d", name="Ann")))
    assert len(replica.log()) == 1


def test_cascades_and_relationships_work(app: App, replica: Replica) -> None:
    perform(app, replica, write)

    def remove_one(ctx: Context) -> list[str]:
        author = ctx.session.get_one(Author, "a")
        author.posts = [post for post in author.posts if post.title != "one"]
        ctx.session.flush()
        return [post.title for post in author.posts]

    assert perform(app, replica, remove_one) == ["two"]
    perform(app, replica, lambda ctx: ctx.session.delete(ctx.session.get_one(Author, "a")))
    assert replica.query("SELECT * FROM post") == []


def test_what_an_action_returns_can_be_read_after_it(app: App, replica: Replica) -> None:
    perform(app, replica, write)
    author = perform(app, replica, lambda ctx: ctx.session.get_one(Author, "a"))
    assert author.name == "Ann"


def test_a_session_ends_with_its_action(app: App, replica: Replica) -> None:
    kept: list[Session] = []
    perform(app, replica, lambda ctx: kept.append(ctx.session))
    with pytest.raises(ResourceClosedError):
        kept[-1].scalars(select(Author))
    contexts: list[Context] = []
    perform(app, replica, contexts.append)
    with pytest.raises(StatementRefused, match="after the action ended"):
        _ = contexts[-1].session


def test_the_transaction_is_the_replicas(app: App, replica: Replica) -> None:
    for end in ("commit", "rollback"):

        def work(ctx: Context, end: str = end) -> None:
            ctx.session.add(Author(id="a", name="Ann"))
            getattr(ctx.session.connection(), end)()

        with pytest.raises(StatementRefused, match="begin_nested"):
            perform(app, replica, work)
    for statement in ("COMMIT", "PRAGMA foreign_keys = OFF", "DROP TABLE post"):
        with pytest.raises(StatementRefused):
            perform(app, replica, lambda ctx, sql=statement: ctx.session.execute(text(sql)))
    assert replica.query("SELECT * FROM author") == []
    perform(app, replica, write)


# ---- Core --------------------------------------------------------------------------------


def test_constructs_in_execute_give_rows_as_sql_does(app: App, replica: Replica) -> None:
    perform(app, replica, write)

    def work(ctx: Context) -> Any:
        ctx.execute(insert(Post).values(author_id="a", title="three"))
        ctx.executemany(
            insert(Post), [{"author_id": "a", "title": title} for title in ("four", "five")]
        )
        [made] = ctx.execute(
            insert(Post).values(author_id="a", title="six").returning(Post.id, Post.published)
        )
        assert made["id"].version == 8
        assert made["published"] is False
        assert ctx.execute(update(Post).where(Post.title == "six").values(title="seven")) == []
        ctx.execute(delete(Post).where(Post.title.in_(["four", "five"])))
        titles = select(Post.title).where(Post.title != bindparam("not_this")).order_by(Post.title)
        both = ctx.execute(titles, {"not_this": "one"})
        assert both == ctx.execute(
            "SELECT title FROM post WHERE title <> ? ORDER BY title", ("one",)
        )
        return [row["title"] for row in both]

    assert perform(app, replica, work) == ["seven", "three", "two"]


def test_sql_and_constructs_see_what_the_session_holds(app: App, replica: Replica) -> None:
    def work(ctx: Context) -> Any:
        ctx.session.add(Author(id="a", name="Ann"))
        by_sql = ctx.execute("SELECT name FROM author")
        ctx.session.add(Author(id="b", name="Bob"))
        by_core = ctx.execute(select(Author.name).order_by(Author.id))
        return [len(by_sql), len(by_core)]

    assert perform(app, replica, work) == [1, 2]


def test_an_upsert_works(app: App, replica: Replica) -> None:
    def work(ctx: Context) -> None:
        statement = upsert(Author).values(id="a", name="Ann")
        ctx.execute(statement.on_conflict_do_update(["id"], set_={"name": "Again"}))

    perform(app, replica, work)
    perform(app, replica, work)
    assert [row["name"] for row in replica.query(select(Author))] == ["Again"]


def test_constructs_come_under_the_rules_of_actions(app: App, replica: Replica) -> None:
    with pytest.raises(StatementRefused, match="synchrotron_action"):
        perform(app, replica, lambda ctx: ctx.execute(text("DELETE FROM synchrotron_action")))


def test_queries_take_constructs(app: App, replica: Replica) -> None:
    perform(app, replica, write)
    rows = replica.query(select(Post).where(Post.at.is_not(None)))
    assert rows == replica.query("SELECT * FROM post WHERE at IS NOT NULL")
    assert replica.query(select(Author).where(Author.id == "nobody")) == []
    [row] = replica.query(select(func.count().label("n"), func.max(Post.at).label("last")))
    assert dict(row) == {"n": 2, "last": NOW}
    with pytest.raises(WriteOutsideAction):
        replica.query(delete(Post))
    with pytest.raises(QueryError, match="no such table"):
        replica.query(text("SELECT * FROM no_such"))
    assert len(replica.query(select(Post))) == 2


def test_queries_take_constructs_on_files_beside_a_writer(app: App, tmp_path: Any) -> None:
    with app.open(tmp_path / "r.db", user="alice") as replica:
        perform(app, replica, write)
        assert len(replica.query(select(Post))) == 2
        assert len(replica.query(select(Post), into=dict)) == 2


def test_live_queries_take_constructs(app: App, replica: Replica) -> None:
    titles = select(Post.title).join(Author).where(Author.name == "Ann").order_by(Post.title)
    live = replica.live(titles)
    assert live.tables == {"post", "author"}
    assert next(live) == []
    perform(app, replica, write)
    assert [row["title"] for row in next(live)] == ["one", "two"]
    live.close()


# ---- values ------------------------------------------------------------------------------

VALUES = [
    ("at", NOW, "2023-11-14T22:13:20.123000Z"),
    (
        "at",
        datetime(2020, 1, 1, tzinfo=timezone(timedelta(hours=2))),
        "2019-12-31T22:00:00.000000Z",
    ),
    ("day", date(2020, 1, 2), "2020-01-02"),
    ("price", Decimal("10.50"), 10.5),
    ("score", 1.0, 1.0),
    ("tags", {"b": [1, 2.5], "a": None}, '{"a":null,"b":[1,2.5]}'),
    ("tags", [], "[]"),
    ("tags", None, None),
    ("cover", b"\x00\xff", b"\x00\xff"),
    ("mood", Mood.GLUM, "GLUM"),
    ("published", True, 1),
    ("id", uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
]


@pytest.mark.parametrize(("column", "value", "stored"), VALUES)
def test_values_are_stored_in_their_columns_form_and_read_back(
    app: App, replica: Replica, column: str, value: Any, stored: Any
) -> None:
    def create(ctx: Context) -> None:
        ctx.session.add(Author(id="a", name="Ann"))
        ctx.session.flush()
        ctx.session.add(Post(title="one", author_id="a", **{column: value}))

    perform(app, replica, create)
    # An expression comes as SQLite holds it.
    raw = replica.query(f"SELECT coalesce({column}, NULL) AS raw FROM post")[0]["raw"]
    assert (raw, type(raw)) == (stored, type(stored))
    attribute = getattr(Post, column)
    assert perform(app, replica, lambda ctx: ctx.session.scalars(select(attribute)).one()) == value
    assert replica.query(select(attribute))[0][column] == value
    same = attribute.is_(None) if value is None else attribute == value
    assert replica.query(select(func.count().label("n")).where(same))[0]["n"] == 1


def test_expressions_are_read_as_their_types_say(app: App, replica: Replica) -> None:
    perform(app, replica, write)
    row = replica.query(
        select(
            func.max(Post.at).label("at"),
            func.sum(Post.price).label("price"),
            func.min(Post.id).label("id"),
            func.sum(cast(Post.title == "one", Float) / 2).label("real"),
            Post.tags["a"].label("part"),
            (Post.title == "one").label("is_one"),
        ).where(Post.title == "one")
    )[0]
    assert row["at"] == NOW
    assert repr(row["price"]) == "Decimal('1.50')"
    assert row["real"] == 0.5
    assert isinstance(row["id"], uuid.UUID)
    assert row["part"] == [None]
    assert row["is_one"] is True


def test_parts_of_documents_can_be_compared(app: App, replica: Replica) -> None:
    perform(app, replica, write)
    titled = select(Post.title).where(Post.tags["b"].as_integer() == 1)
    assert [row["title"] for row in replica.query(titled)] == ["one"]


def test_a_moment_without_its_zone_is_refused(app: App, replica: Replica) -> None:
    def naive(ctx: Context) -> None:
        ctx.session.add(Author(id="a", name="Ann"))
        ctx.session.flush()
        ctx.session.add(Post(title="one", author_id="a", at=datetime(2020, 1, 1)))

    with pytest.raises(ValueRefused, match="has no time zone"):
        perform(app, replica, naive)


def test_json_null_is_refused_where_an_object_belongs(app: App, replica: Replica) -> None:
    def null(ctx: Context) -> None:
        ctx.session.add(Author(id="a", name="Ann"))
        ctx.session.flush()
        ctx.execute(insert(Post).values(title="one", author_id="a", tags=JSON.NULL))

    with pytest.raises(ValueRefused, match="post"):
        perform(app, replica, null)


@pytest.mark.spec("A3")
def test_the_databases_clock_is_the_contexts(app: App, replica: Replica) -> None:
    def touch(ctx: Context) -> Any:
        post = ctx.session.scalars(select(Post).where(Post.title == "one")).one()
        post.published = True
        ctx.session.flush()
        ctx.session.refresh(post)
        return post.changed, ctx.execute(select(func.now().label("now")))[0]["now"]

    perform(app, replica, write)
    assert perform(app, replica, touch) == (NOW, NOW)


# ---- strict mode -------------------------------------------------------------------------


@pytest.mark.spec("A3")
def test_strict_mode_tells_an_unordered_construct_by_its_line(app: App) -> None:
    def first(ctx: Context) -> None:
        post = ctx.session.scalars(select(Post).limit(1)).one()  # impure
        post.published = True

    with app.open(":memory:", user="alice", strict=True) as replica:
        perform(app, replica, write)
        with pytest.raises(ImpureAction, match="ORDER BY") as caught:
            perform(app, replica, first)
    line = first.__code__.co_firstlineno + 1
    assert f"{__file__}:{line}, in first" in str(caught.value)


# ---- an extra ------------------------------------------------------------------------------

WITHOUT = """
import sys

class NoSQLAlchemy:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "sqlalchemy":
            raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy")

sys.meta_path.insert(0, NoSQLAlchemy)
from synchrotron import App, Context
import synchrotron.testing, synchrotron.cli, synchrotron.server
from synchrotron.errors import UsageError

app = App("notes", schema="CREATE TABLE note (id TEXT PRIMARY KEY, audience_key TEXT NOT NULL)")

@app.action
def sql(ctx: Context) -> int:
    ctx.execute("INSERT INTO note VALUES ('a', 'all')")
    return len(ctx.execute("SELECT * FROM note"))

@app.action
def session(ctx: Context) -> None:
    ctx.session

for strict in (False, True):
    with app.open(":memory:", user="alice", strict=strict) as replica:
        assert replica.run(sql).result == 1
        assert len(replica.query("SELECT * FROM note")) == 1
        for wrong in (lambda: replica.run(session), lambda: replica.query(object())):
            try:
                wrong()
            except UsageError as error:
                assert "pip install 'pysynchrotron[sqlalchemy]'" in str(error), error
            else:
                raise AssertionError("SQLAlchemy was not missed")
assert not [name for name in sys.modules if name.partition(".")[0] == "sqlalchemy"]
assert "synchrotron.ext.sqlalchemy.work" not in sys.modules
"""


def test_nothing_else_needs_sqlalchemy_and_its_lack_is_told_with_the_remedy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
