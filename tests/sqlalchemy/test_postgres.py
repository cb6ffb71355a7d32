"""Models on PostgreSQL: what the DDL made of them says there, and rows that they had before."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
from tests.postgres.bridge import Served
from tests.postgres.cluster import drop_database, execute, new_database
from tests.postgres.twin import described
from tests.sqlalchemy.blog import Author, Base, Mood, Post, app, price_all, publish, sign_up

from synchrotron import App, Context, Replica
from synchrotron.server.install import install

AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


@pytest.fixture
def database() -> Iterator[str]:
    url = new_database()
    execute(url, "CREATE TABLE given_members (user_id text, audience_key text)")
    execute(url, "GRANT SELECT ON given_members TO PUBLIC")
    execute(url, "INSERT INTO given_members VALUES ('ann', 'all'), ('bob', 'all')")
    yield url
    drop_database(url)


@pytest.fixture
def engine(database: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database))
    yield engine
    engine.dispose()


class Both:
    """Two users' replicas of one server."""

    def __init__(self, database: str) -> None:
        self.server = Served(database)
        self.ann, self.bob = (
            app.open(":memory:", transport=self.server.connect(user)) for user in ("ann", "bob")
        )
        self.sync()

    def sync(self) -> None:
        for replica in (self.ann, self.bob, self.ann):
            replica.sync()

    def close(self) -> None:
        self.ann.close()
        self.bob.close()
        self.server.close()


def posts(replica: Replica) -> list[tuple[object, ...]]:
    return [
        tuple(row.values())
        for row in replica.query(
            sa.select(Post.title, Post.published, Post.price).order_by(Post.title)
        )
    ]


@pytest.mark.spec("S7", "S8")
def test_models_are_installed_and_synced(database: str, engine: sa.Engine) -> None:
    install(described(app, given=True), database)
    both = Both(database)
    both.ann.run(sign_up, name="Ann", titles=["one", "two"])
    both.sync()
    both.bob.run(publish, title="one")
    both.ann.run(publish, title="two")
    both.bob.run(price_all, price=Decimal("9.90"))
    both.sync()
    want = [("one", True, Decimal("9.90")), ("two", True, Decimal("9.90"))]
    assert posts(both.ann) == posts(both.bob) == want
    # And the author's own models read there what replicas wrote here.
    with sa.orm.Session(engine) as session:
        found = session.scalars(sa.select(Post).order_by(Post.title)).all()
        assert [(p.title, p.published, p.price) for p in found] == want
        assert {p.author.name for p in found} == {"Ann"}
        assert all(isinstance(p.at, datetime) for p in found)
    both.close()


@pytest.mark.spec("F7", "S11")
def test_tables_that_sqlalchemy_made_are_adopted_with_their_rows(
    database: str, engine: sa.Engine
) -> None:
    """It writes VARCHAR where TEXT is meant, and no foreign key that is deferred."""
    Base.metadata.create_all(engine)
    with sa.orm.Session(engine) as session, session.begin():
        author = Author(id="a", name="Ann")
        author.posts = [
            Post(
                id=UUID(int=1),
                title="old",
                at=AT,
                day=AT.date(),
                price=Decimal("1.50"),
                score=0.1,
                tags={"b": [1, None], "a": "ö"},
                cover=b"\0\xff",
                mood=Mood.GLAD,
                changed=AT.replace(tzinfo=None),
            )
        ]
        session.add(author)
    done = install(described(app, given=True), database, adopt=True)
    assert done.adopted.rows == {"author": 1, "post": 1}
    both = Both(database)
    [post] = both.bob.query(sa.select(Post))
    assert (post["at"], post["day"], post["price"]) == (AT, AT.date(), Decimal("1.50"))
    assert (post["tags"], post["cover"], post["mood"]) == (
        {"a": "ö", "b": [1, None]},
        b"\0\xff",
        Mood.GLAD,
    )
    assert (post["id"], post["score"], post["changed"]) == (UUID(int=1), 0.1, AT)
    both.bob.run(publish, title="old")
    both.ann.run(price_all, price=Decimal("2.00"))
    both.sync()
    assert posts(both.ann) == posts(both.bob)
    assert execute(database, "SELECT published, price FROM post") == [(True, Decimal("2.00"))]
    both.close()


@pytest.mark.spec("S11")
def test_a_model_that_grew_is_migrated_on_both_sides(database: str) -> None:
    def model(*columns: sa.Column[object]) -> sa.MetaData:
        metadata = sa.MetaData()
        sa.Table(
            "item",
            metadata,
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column("audience_key", sa.Text, sa.Computed("'all'")),
            *columns,
        )
        return metadata

    grown = sa.Column("n", sa.Integer, nullable=False, server_default=sa.text("7"))
    migration = "ALTER TABLE item ADD COLUMN n INTEGER NOT NULL DEFAULT 7"
    older = App("items", schema=model())
    newer = App("items", schema=model(grown), migrations=(migration,))

    @older.action(name="add", audience="all")
    def add(ctx: Context, *, id: str) -> None:
        ctx.execute("INSERT INTO item (id) VALUES (?)", (id,))

    newer.action(name="add", audience="all")(add.function)
    install(described(older, given=True), database)
    server = Served(database)
    old = older.open(":memory:", transport=server.connect("ann"))
    old.run(add, id="before")
    old.sync()
    assert install(described(newer, given=True), database).migrations == 1
    old.run(add, id="after")
    old.sync()
    new = newer.open(":memory:", transport=server.connect("bob"))
    new.sync()
    assert [tuple(row.values())[::2] for row in new.query("SELECT * FROM item ORDER BY id")] == [
        ("after", 7),
        ("before", 7),
    ]
    assert execute(database, "SELECT id, n FROM item ORDER BY id") == [("after", 7), ("before", 7)]
    old.close()
    new.close()
    server.close()
