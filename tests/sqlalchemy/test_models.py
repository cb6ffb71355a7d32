"""Models as the schema: what they come to, and what is refused with a remedy."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from synchrotron import App, Context
from synchrotron.errors import OtherApplication, SchemaError


def metadata(*columns: Any, name: str = "item", **options: Any) -> sa.MetaData:
    """Models of one table, with a key and an audience."""
    made = sa.MetaData(**options)
    sa.Table(name, made, *key_and_audience(), *columns)
    return made


def key_and_audience() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("audience_key", sa.Text, sa.Computed("'item:' || id")),
    ]


def declared(app: App, column: str = "x", table: str = "item") -> str:
    return app.schema.tables[table].column(column).type.declared


TYPES = [
    (sa.Text, "TEXT"),
    (sa.String, "TEXT"),
    (sa.String(20), "VARCHAR(20)"),
    (sa.Unicode(20), "VARCHAR(20)"),
    (sa.UnicodeText, "TEXT"),
    (sa.SmallInteger, "SMALLINT"),
    (sa.Integer, "INTEGER"),
    (sa.BigInteger, "BIGINT"),
    (sa.Float, "DOUBLE PRECISION"),
    (sa.Double, "DOUBLE PRECISION"),
    (sa.Numeric(10, 2), "NUMERIC(10,2)"),
    (sa.Boolean, "BOOLEAN"),
    (sa.DateTime, "TIMESTAMP"),
    (sa.DateTime(timezone=True), "TIMESTAMPTZ"),
    (sa.TIMESTAMP(timezone=True), "TIMESTAMPTZ"),
    (sa.Date, "DATE"),
    (sa.Uuid, "UUID"),
    (sa.UUID(as_uuid=False), "UUID"),
    (sa.JSON, "JSON"),
    (sa.LargeBinary, "BYTEA"),
    (sa.Enum("a", "bcd", native_enum=False), "VARCHAR(3)"),
    (sa.Enum("a", "bcd", name="letters"), "VARCHAR(3)"),
    (postgresql.JSONB, "JSONB"),
    (postgresql.TIMESTAMP(timezone=True), "TIMESTAMPTZ"),
    (postgresql.UUID, "UUID"),
    (postgresql.BYTEA, "BYTEA"),
    (postgresql.DOUBLE_PRECISION, "DOUBLE PRECISION"),
]


@pytest.mark.parametrize(("type_", "name"), TYPES, ids=lambda value: str(value))
def test_each_type_is_declared_as_both_databases_take_it(type_: Any, name: str) -> None:
    assert declared(App("items", schema=metadata(sa.Column("x", type_)))) == name


REFUSED = [
    (sa.Interval, "BIGINT and count seconds"),
    (sa.PickleType, "JSON"),
    (sa.Time, "TEXT with a CHECK"),
    (sa.Numeric, "NUMERIC"),
    (sa.Numeric(30, 2), "precision is from 1 to 15"),
    (sa.CHAR(3), "VARCHAR"),
    (sa.REAL, "DOUBLE PRECISION"),
    (sa.BLOB, "BYTEA"),
    (postgresql.ARRAY(sa.Text), "item"),
]


@pytest.mark.parametrize(("type_", "remedy"), REFUSED, ids=lambda value: str(value))
def test_a_type_that_cannot_be_kept_in_sync_is_refused_with_what_to_write(
    type_: Any, remedy: str
) -> None:
    with pytest.raises(SchemaError, match=r"table item") as caught:
        App("items", schema=metadata(sa.Column("x", type_)))
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (sa.Column("x", sa.Uuid, default=uuid.uuid4), "uuid4"),
        (sa.Column("x", sa.DateTime, default=datetime.now), "now"),
        (sa.Column("x", sa.DateTime, onupdate=datetime.utcnow), "utcnow"),
        (sa.Column("x", sa.Date, default=date.today), "today"),
        (sa.Column("x", sa.Text, default=secrets.token_hex), "token_hex"),
        (sa.Column("x", sa.DateTime, server_default=sa.func.now()), "neither clock nor dice"),
        (sa.Column("x", sa.Text, sa.Computed("id", persisted=False)), "STORED"),
        (sa.Column("x", sa.Integer, sa.Sequence("numbers")), ""),
    ],
)
def test_defaults_that_no_replay_repeats_are_refused(column: Any, message: str) -> None:
    if column.default is not None and column.default.is_sequence:
        App("items", schema=metadata(column))  # SQLite has none; the column is a plain one
        return
    with pytest.raises(SchemaError) as caught:
        App("items", schema=metadata(column))
    assert message in str(caught.value)


def test_a_default_that_is_a_value_or_made_of_arguments_is_taken() -> None:
    models = metadata(
        sa.Column("n", sa.Integer, default=3),
        sa.Column("text", sa.Text, default=lambda: "made"),
        sa.Column("day", sa.Text, server_default="monday"),
    )
    app = App("items", schema=models)

    @app.action
    def add(ctx: Context) -> None:
        ctx.execute(sa.insert(models.tables["item"]))

    with app.open(":memory:", user="alice", strict=True) as replica:
        replica.run(add)
        [row] = replica.query("SELECT n, text, day FROM item")
        assert dict(row) == {"n": 3, "text": "made", "day": "monday"}


def test_a_key_that_is_a_row_id_is_refused() -> None:
    models = sa.MetaData()
    sa.Table("item", models, sa.Column("id", sa.Integer, primary_key=True), key_and_audience()[1])
    with pytest.raises(SchemaError, match="TEXT PRIMARY KEY"):
        App("items", schema=models)


def test_constraints_indexes_and_foreign_keys_are_kept() -> None:
    models = metadata(sa.Column("n", sa.Integer, sa.CheckConstraint("n > 0")))
    sa.Table(
        "part",
        models,
        *key_and_audience(),
        sa.Column("item_id", sa.Text, sa.ForeignKey("item.id", ondelete="CASCADE"), index=True),
        sa.Column("name", sa.Text, unique=True),
    )
    app = App("items", schema=models)
    [key] = app.schema.tables["part"].foreign_keys
    assert (key.columns, key.parent) == (("item_id",), "item")
    source = app.schema.source
    assert "CHECK (n > 0)" in source
    assert "UNIQUE (name)" in source
    assert "CREATE INDEX ix_part_item_id ON part (item_id)" in source
    assert "ON DELETE CASCADE" in source


def test_the_same_models_give_the_same_schema_each_time(tmp_path: Path) -> None:
    def make() -> App:
        models = metadata(sa.Column("n", sa.Integer, index=True), sa.Column("m", sa.Integer))
        sa.Index("a_both", models.tables["item"].c.n, models.tables["item"].c.m)
        return App("items", schema=models)

    with make().open(tmp_path / "r.db", user="alice"):
        pass
    with make().open(tmp_path / "r.db"):
        pass


# ---- migrations ----------------------------------------------------------------------------

MIGRATIONS = (
    "ALTER TABLE item ADD COLUMN n INTEGER NOT NULL DEFAULT 0; CREATE INDEX item_n ON item (n)",
    "CREATE TABLE note (id TEXT PRIMARY KEY, text TEXT, audience_key TEXT NOT NULL);"
    "ALTER TABLE item ADD COLUMN note_id TEXT REFERENCES note (id)",
)


def ungrown() -> sa.MetaData:
    """The models of the first release."""
    models = sa.MetaData()
    key, audience = key_and_audience()
    sa.Table("item", models, key, sa.Column("text", sa.Text), audience)
    return models


def grown() -> sa.MetaData:
    """The models of today, with what the migrations add."""
    models = sa.MetaData()
    sa.Table(
        "note",
        models,
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("text", sa.Text),
        sa.Column("audience_key", sa.Text, nullable=False),
    )
    sa.Table(
        "item",
        models,
        sa.Column("id", sa.Text, primary_key=True),
        # Where the author likes it, not at the end.
        sa.Column("n", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("note_id", sa.ForeignKey("note.id")),
        sa.Column("text", sa.Text),
        sa.Column("audience_key", sa.Text, sa.Computed("'item:' || id")),
        sa.Index("item_n", "n"),
    )
    return models


def test_models_grow_by_migrations_on_files_that_are_there(tmp_path: Path) -> None:
    first = App("items", schema=ungrown())

    def add(ctx: Context, *, id: str) -> None:
        ctx.execute("INSERT INTO item (id) VALUES (?)", (id,))

    with first.open(tmp_path / "r.db", user="alice") as replica:
        replica.run(first.action(add), id="a")

    models = grown()
    app = App("items", schema=models, migrations=MIGRATIONS)
    item = models.tables["item"]
    with app.open(tmp_path / "r.db", strict=True) as replica:

        @app.action
        def annotate(ctx: Context) -> None:
            note = ctx.new_id("note")
            ctx.execute(sa.insert(models.tables["note"]).values(id=note, audience_key="all"))
            ctx.execute(sa.update(item).values(note_id=note, n=item.c.n + 1))

        replica.run(annotate)
        [row] = replica.query(sa.select(item.c.n, item.c.note_id))
        assert row["n"] == 1
        assert row["note_id"] is not None


def test_a_model_that_grew_without_a_migration_is_told_when_the_file_is_opened(
    tmp_path: Path,
) -> None:
    with App("items", schema=metadata()).open(tmp_path / "r.db", user="alice"):
        pass
    app = App("items", schema=metadata(sa.Column("n", sa.Integer)))
    with pytest.raises(OtherApplication, match="migrations"):
        app.open(tmp_path / "r.db")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda models: models.remove(models.tables["note"]), "note"),
        (lambda models: setattr(models.tables["item"].c.n, "type", sa.BigInteger()), "BIGINT"),
        (lambda models: setattr(models.tables["item"].c.n, "nullable", True), "NOT NULL"),
    ],
    ids=["no table", "another type", "nullable"],
)
def test_models_and_migrations_that_disagree_are_refused(
    change: Callable[[sa.MetaData], Any], message: str
) -> None:
    models = grown()
    if message == "note":
        models = sa.MetaData()
        sa.Table(
            "item",
            models,
            *key_and_audience(),
            sa.Column("n", sa.Integer, nullable=False, server_default=sa.text("0")),
            sa.Column("note_id", sa.Text),
        )
    else:
        change(models)
    with pytest.raises(SchemaError, match=message):
        App("items", schema=models, migrations=MIGRATIONS)


def test_plain_sql_and_models_beside_it_work_together() -> None:
    models = metadata(sa.Column("at", sa.DateTime(timezone=True)))
    app = App(
        "items",
        schema="CREATE TABLE item (id TEXT PRIMARY KEY, at TIMESTAMPTZ, "
        "audience_key TEXT GENERATED ALWAYS AS ('item:' || id) STORED)",
    )
    item = models.tables["item"]

    @app.action
    def add(ctx: Context) -> None:
        ctx.execute(sa.insert(item).values(id="a", at=datetime(2026, 1, 2, tzinfo=UTC)))

    with app.open(":memory:", user="alice", strict=True) as replica:
        replica.run(add)
        [row] = replica.query(sa.select(item.c.at))
        assert row["at"] == datetime(2026, 1, 2, tzinfo=UTC)
