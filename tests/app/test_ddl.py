"""Schema SQL: cut into statements and definitions, completed in the right places."""

from __future__ import annotations

import pytest

from synchrotron.app import ddl
from synchrotron.app.ddl import NEW_ID
from synchrotron.errors import SchemaError


def statements(script: str) -> list[str]:
    return [statement.text for statement in ddl.split(script)]


def read(sql: str) -> ddl.SchemaStatement:
    (statement,) = ddl.split(sql)
    return ddl.read(statement)


def table(sql: str) -> ddl.CreateTable:
    part = read(sql)
    assert isinstance(part, ddl.CreateTable)
    return part


def test_a_script_is_cut_at_semicolons_that_are_neither_text_nor_comment() -> None:
    script = """
        -- first; not the end
        CREATE TABLE a (x TEXT DEFAULT 'it''s; here');;
        /* ; */ CREATE INDEX i ON a (x) -- the last needs none
    """
    assert statements(script) == [
        "CREATE TABLE a (x TEXT DEFAULT 'it''s; here')",
        "CREATE INDEX i ON a (x)",
    ]


def test_an_empty_script_has_no_statement() -> None:
    assert statements(" -- nothing\n ; ;") == []


@pytest.mark.parametrize("open_quote", ["'", '"', "`", "["])
def test_a_quote_without_an_end_is_shown(open_quote: str) -> None:
    with pytest.raises(SchemaError, match="has no end"):
        statements(f"CREATE TABLE a (x TEXT DEFAULT {open_quote}oops)")


def test_a_table_is_cut_into_columns_and_constraints() -> None:
    created = table(
        """CREATE TABLE a (
            id TEXT PRIMARY KEY, -- a comment, with a comma
            price NUMERIC(10,2) CHECK (price > 0, 'x'),
            CONSTRAINT c UNIQUE (id, price), CHECK (id <> ',')
        )"""
    )
    assert created.name == "a"
    assert [definition.column for definition in created.definitions] == ["id", "price", None, None]


def test_additions_go_before_comments_and_leave_the_authors_text_alone() -> None:
    created = table("CREATE TABLE a (\n  id TEXT PRIMARY KEY -- the key\n) -- end")
    assert created.complete("id") == (
        f"CREATE TABLE a (\n  id TEXT PRIMARY KEY DEFAULT ({NEW_ID}('a')) -- the key\n"
        ") WITHOUT ROWID"
    )


LATER = " DEFERRABLE INITIALLY DEFERRED"


@pytest.mark.parametrize(
    "definition",
    [
        "x TEXT REFERENCES p@",
        "x TEXT REFERENCES p (id)@ NOT NULL",
        "x TEXT REFERENCES p (id) ON DELETE CASCADE@ DEFAULT 'a'",
        "x TEXT REFERENCES p (id) ON DELETE SET NULL ON UPDATE NO ACTION@ UNIQUE",
        "x TEXT REFERENCES p (id) ON UPDATE RESTRICT ON DELETE SET DEFAULT@ CHECK (x <> '')",
        "x TEXT REFERENCES p@ REFERENCES q (id)@",
        "x TEXT, FOREIGN KEY (x) REFERENCES p (id) ON DELETE CASCADE@",
        f"x TEXT REFERENCES p (id) ON DELETE CASCADE{LATER} NOT NULL",
        f"x TEXT, CONSTRAINT c FOREIGN KEY (x) REFERENCES p{LATER}",
        "x TEXT DEFAULT 'REFERENCES p'",
    ],
)
def test_every_foreign_key_is_checked_at_the_end_of_the_action(definition: str) -> None:
    created = table(f"CREATE TABLE a ({definition.replace('@', '')})")
    completed = f"CREATE TABLE a ({definition.replace('@', LATER)}) WITHOUT ROWID"
    assert created.complete(None) == completed


@pytest.mark.parametrize(
    "definition",
    [
        "x TEXT REFERENCES p NOT DEFERRABLE",
        "x TEXT REFERENCES p DEFERRABLE",
        "x TEXT REFERENCES p DEFERRABLE INITIALLY IMMEDIATE",
        f"x TEXT REFERENCES p NOT NULL{LATER}",
        f"x TEXT, UNIQUE (x){LATER}",
    ],
)
def test_any_other_deferrable_clause_is_refused(definition: str) -> None:
    with pytest.raises(SchemaError, match="leave it out"):
        table(f"CREATE TABLE a ({definition})").complete(None)


def test_a_generated_columns_expression_is_found() -> None:
    created = table("CREATE TABLE a (x TEXT GENERATED ALWAYS AS ('(' || (y /* , */)) STORED)")
    expression = created.definitions[0].expression
    assert expression is not None
    assert [token.text for token in expression] == ["'('", "||", "(", "y", ")"]


def test_an_added_column_is_completed_too() -> None:
    for word in ("COLUMN ", ""):
        part = read(f"ALTER TABLE a ADD {word}x TEXT REFERENCES p (id);")
        assert isinstance(part, ddl.AddColumn)
        assert (part.name, part.definition.column) == ("a", "x")
        assert part.complete() == f"ALTER TABLE a ADD {word}x TEXT REFERENCES p (id){LATER}"


def test_indexes_are_told_from_tables() -> None:
    for sql in ("CREATE INDEX i ON a (lower(x)) WHERE x > 0", "create unique index i on a (x)"):
        part = read(sql)
        assert isinstance(part, ddl.CreateIndex) and part.name == "i"


@pytest.mark.parametrize(
    ("sql", "remedy"),
    [
        ("CREATE TABLE IF NOT EXISTS a (x TEXT)", "IF NOT EXISTS"),
        ("CREATE INDEX IF NOT EXISTS i ON a (x)", "IF NOT EXISTS"),
        ("CREATE UNIQUE INDEX IF NOT EXISTS i ON a (x)", "IF NOT EXISTS"),
        ("CREATE TABLE a AS SELECT 1", "declare the columns"),
        ("CREATE TEMP TABLE a (x TEXT)", "App(local=…)"),
        ("CREATE TEMPORARY TABLE a (x TEXT)", "App(local=…)"),
        ("CREATE TABLE main.a (x TEXT)", "before the point"),
        ("CREATE TABLE a (x TEXT) STRICT", "STRICT: leave it out"),
        ("CREATE TABLE a (x TEXT) WITHOUT ROWID", "WITHOUT ROWID: leave it out"),
        ("CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1", "App(local=…)"),
        ("CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT 1", "App(local=…)"),
        ("CREATE VIEW v AS SELECT 1", "App(local=…)"),
        ("CREATE VIRTUAL TABLE f USING fts5(x)", "App(local=…)"),
        ("INSERT INTO a VALUES (1)", "consists of CREATE TABLE"),
        ("DROP TABLE a", "consists of CREATE TABLE"),
        ("ALTER TABLE a RENAME TO b", "consists of CREATE TABLE"),
        ("ALTER TABLE a ADD CONSTRAINT c CHECK (x > 0)", "consists of CREATE TABLE"),
        ("PRAGMA foreign_keys = ON", "consists of CREATE TABLE"),
        ("CREATE TABLE", "consists of CREATE TABLE"),
        ("CREATE TABLE a (x TEXT UNIQUE ON CONFLICT REPLACE)", "ON CONFLICT"),
        ("CREATE TABLE a (x TEXT COLLATE NOCASE)", "lower(x)"),
        ("CREATE UNIQUE INDEX i ON a (x COLLATE RTRIM)", "COLLATE RTRIM"),
        ("CREATE TABLE a (x INTEGER PRIMARY KEY AUTOINCREMENT)", "id TEXT PRIMARY KEY"),
        ("CREATE TABLE a (x TIMESTAMP DEFAULT CURRENT_TIMESTAMP)", "ctx.now"),
        ("CREATE TABLE a (x TIMESTAMP DEFAULT now())", "ctx.now"),
        ("CREATE TABLE a (x TEXT CHECK (x > datetime('now')))", "ctx.now"),
        ("CREATE TABLE a (x INTEGER DEFAULT (random()))", "ctx.random"),
        ("CREATE TABLE a (x TEXT REFERENCES p MATCH FULL)", "MATCH FULL"),
        ("CREATE TABLE Todo (x TEXT)", "lower case"),
        ('CREATE TABLE "order" (x TEXT)', "without quotes"),
        ("CREATE TABLE user (x TEXT)", "reserved word in PostgreSQL"),
        ("CREATE TABLE synchrotron_a (x TEXT)", "reserved"),
        ("CREATE TABLE sqlite_a (x TEXT)", "reserved"),
        ("CREATE INDEX sqlite_i ON a (x)", "reserved"),
        (f"CREATE TABLE {'a' * 64} (x TEXT)", "at most 63"),
    ],
)
def test_what_cannot_stand_in_a_schema_is_refused_with_the_remedy(sql: str, remedy: str) -> None:
    with pytest.raises(SchemaError) as refusal:
        read(sql)
    assert remedy in str(refusal.value)


def test_a_table_named_like_a_clock_function_is_no_clock() -> None:
    created = table("CREATE TABLE date (id TEXT, next TEXT REFERENCES date (id), now TEXT)")
    assert created.name == "date"
    assert isinstance(read("CREATE INDEX i ON date (now)"), ddl.CreateIndex)
