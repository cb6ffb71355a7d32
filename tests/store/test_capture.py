"""Capture: the net change of an action on each row, whatever SQL made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.bench import make_application, run_statements, sent_patches

from synchrotron import App, Context, Replica
from synchrotron.errors import ConstraintError, ForeignKeyError, MachineError
from synchrotron.store.capture import same_row

Do = Callable[..., Any]
Patches = Callable[[Replica], dict[tuple[Any, ...], Any]]
EMPTY = {"n": None, "x": None, "note": None, "code": None, "data": None, "parent": None}


def inserted(id: str, **values: Any) -> tuple[str, dict[str, Any]]:
    return "insert", {"id": id, **EMPTY, **values}


# ---- values --------------------------------------------------------------------------


@pytest.mark.spec("A8")
def test_an_insert_has_all_columns_but_the_generated_ones(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('a', 1)")
    assert patches(replica) == {("item", "a"): inserted("a", n=1)}


def test_an_update_has_the_changed_columns_and_null_is_one_of_their_values(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(replica, "INSERT INTO item (id, n, note) VALUES ('a', 1, 'x')")
    do(replica, "UPDATE item SET n = NULL, note = 'x'")
    assert patches(replica) == {("item", "a"): ("update", {"n": None})}
    do(replica, "UPDATE item SET n = 0, note = NULL")
    assert patches(replica) == {("item", "a"): ("update", {"n": 0, "note": None})}


def test_a_delete_has_no_values(replica: Replica, do: Do, patches: Patches) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('a', 1)")
    do(replica, "DELETE FROM item WHERE id = 'a'")
    assert patches(replica) == {("item", "a"): ("delete", None)}


def test_an_integer_and_an_equal_float_are_two_values(
    application: Callable[..., App], do: Do, patches: Patches
) -> None:
    schema = """CREATE TABLE t (id TEXT PRIMARY KEY, j JSON, audience_key TEXT NOT NULL)"""
    with application(schema).open(":memory:", user="alice") as replica:
        do(replica, "INSERT INTO t VALUES ('a', '[1]', 'all')")
        do(replica, "UPDATE t SET j = '[1.0]'")
        [(op, values)] = patches(replica).values()
        assert (op, repr(values)) == ("update", "{'j': [1.0]}")
        do(replica, "UPDATE t SET j = '[true]'")
        assert repr(patches(replica)["t", "a"][1]) == "{'j': [True]}"


def test_a_type_changed_on_the_way_is_no_change(replica: Replica, do: Do, patches: Patches) -> None:
    """The affinity of a column gives back what was there: an integer in a DOUBLE is a float."""
    do(replica, "INSERT INTO item (id, n, x) VALUES ('a', 1, 1.0)")
    do(replica, "UPDATE item SET n = 1.0, x = 1")
    assert patches(replica) == {}


def test_blobs_are_captured_byte_by_byte(replica: Replica, do: Do, patches: Patches) -> None:
    do(replica, "INSERT INTO item (id, data) VALUES ('a', x'00ff00')")
    assert patches(replica) == {("item", "a"): inserted("a", data="AP8A")}
    do(replica, "UPDATE item SET data = x''")
    assert patches(replica) == {("item", "a"): ("update", {"data": ""})}
    do(replica, "UPDATE item SET data = NULL")
    assert patches(replica) == {("item", "a"): ("update", {"data": None})}


def test_a_generated_column_that_follows_another_is_in_no_patch(
    application: Callable[..., App], do: Do, patches: Patches
) -> None:
    schema = """
        CREATE TABLE t (
            audience_key TEXT GENERATED ALWAYS AS ('all') STORED,
            twice BIGINT GENERATED ALWAYS AS (n * 2) STORED,
            n BIGINT, id TEXT PRIMARY KEY
        )"""
    with application(schema).open(":memory:", user="alice") as replica:
        do(replica, "INSERT INTO t (id, n) VALUES ('a', 1)")
        assert patches(replica) == {("t", "a"): ("insert", {"id": "a", "n": 1})}
        do(replica, "UPDATE t SET n = 2")
        assert patches(replica) == {("t", "a"): ("update", {"n": 2})}
        assert replica.query("SELECT twice FROM t")[0]["twice"] == 4


# ---- keys ----------------------------------------------------------------------------


def test_rows_are_told_apart_by_their_whole_key(replica: Replica, do: Do, patches: Patches) -> None:
    do(replica, "INSERT INTO pair (a, b, v) VALUES ('x', 1, 1), ('x', 2, 2), ('y', 1, 3)")
    assert set(patches(replica)) == {("pair", 1, "x"), ("pair", 2, "x"), ("pair", 1, "y")}
    do(replica, "UPDATE pair SET v = v + 1 WHERE a = 'x'", "DELETE FROM pair WHERE a = 'y'")
    assert patches(replica) == {
        ("pair", 1, "x"): ("update", {"v": 2}),
        ("pair", 2, "x"): ("update", {"v": 3}),
        ("pair", 1, "y"): ("delete", None),
    }


def test_text_keys_are_told_apart_by_every_character(
    replica: Replica, do: Do, patches: Patches
) -> None:
    keys = ["", " ", "a", "A", "a ", "é", "e\u0301", "'", "1", "1.0", "🦊"]
    do(
        replica,
        *(f"INSERT INTO item (id) VALUES ('{key.replace(chr(39), chr(39) * 2)}')" for key in keys),
    )
    assert [key for _, key in patches(replica)] == keys
    do(replica, "UPDATE item SET n = 1 WHERE id = 'A'")
    assert patches(replica) == {("item", "A"): ("update", {"n": 1})}


@pytest.mark.parametrize(
    ("declared", "stored", "wire"),
    [
        ("BIGINT", "9007199254740993", 9007199254740993),
        ("UUID", "'0192f1a2-b3c4-8001-8aaa-0123456789ab'", "0192f1a2-b3c4-8001-8aaa-0123456789ab"),
        ("NUMERIC(10,2)", "10.0", "10.00"),
        ("BYTEA", "x'00ff'", "AP8="),
        ("BOOLEAN", "TRUE", True),
        ("DATE", "'2026-01-02'", "2026-01-02"),
        ("TIMESTAMP", "'2026-01-02T03:04:05.000006Z'", "2026-01-02T03:04:05.000006Z"),
    ],
)
def test_a_key_of_any_type_names_its_row(
    application: Callable[..., App],
    do: Do,
    patches: Patches,
    declared: str,
    stored: str,
    wire: Any,
) -> None:
    schema = f"CREATE TABLE t (k {declared} PRIMARY KEY, n INTEGER, audience_key TEXT NOT NULL)"
    with application(schema).open(":memory:", user="alice") as replica:
        do(replica, f"INSERT INTO t VALUES ({stored}, 1, 'all')")
        assert patches(replica)["t", wire][0] == "insert"
        do(replica, f"UPDATE t SET n = 2 WHERE k = {stored}")
        assert patches(replica) == {("t", wire): ("update", {"n": 2})}
        do(replica, "DELETE FROM t")
        assert patches(replica) == {("t", wire): ("delete", None)}


def test_a_changed_key_is_a_delete_and_an_insert(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('a', 1)")
    do(replica, "UPDATE item SET id = 'b'")
    assert patches(replica) == {
        ("item", "a"): ("delete", None),
        ("item", "b"): inserted("b", n=1),
    }


def test_keys_that_are_swapped_are_updates(replica: Replica, do: Do, patches: Patches) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('a', 1), ('b', 2)")
    do(
        replica,
        "UPDATE item SET id = 'c' WHERE id = 'a'",
        "UPDATE item SET id = 'a' WHERE id = 'b'",
        "UPDATE item SET id = 'b' WHERE id = 'c'",
    )
    assert patches(replica) == {
        ("item", "a"): ("update", {"n": 2}),
        ("item", "b"): ("update", {"n": 1}),
    }


# ---- the net -------------------------------------------------------------------------


@pytest.mark.spec("A8")
@pytest.mark.parametrize(
    "statements",
    [
        ["INSERT INTO item (id) VALUES ('z')", "DELETE FROM item WHERE id = 'z'"],
        ["UPDATE item SET n = 5", "UPDATE item SET n = 1"],
        ["DELETE FROM item", "INSERT INTO item (id, n) VALUES ('a', 1)"],
        ["UPDATE item SET id = 'b'", "UPDATE item SET id = 'a'"],
        ["UPDATE item SET n = n"],
        ["INSERT OR REPLACE INTO item (id, n) VALUES ('a', 1)"],
        ["SAVEPOINT s", "UPDATE item SET n = 2", "ROLLBACK TO s"],
        ["SAVEPOINT s", "DELETE FROM item", "ROLLBACK TO s", "RELEASE s"],
        ["SELECT * FROM item"],
    ],
    ids=lambda statements: "; ".join(statements),
)
def test_what_ends_as_it_began_is_nothing(
    replica: Replica, do: Do, patches: Patches, statements: list[str]
) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('a', 1)")
    do(replica, *statements)
    assert patches(replica) == {}
    assert replica.query("SELECT id, n FROM item") == [{"id": "a", "n": 1}]


def test_several_changes_of_a_row_are_one_patch(replica: Replica, do: Do, patches: Patches) -> None:
    do(
        replica,
        "INSERT INTO item (id, n) VALUES ('a', 1)",
        "UPDATE item SET n = n + 1",
        "UPDATE item SET note = 'x'",
    )
    assert patches(replica) == {("item", "a"): inserted("a", n=2, note="x")}
    do(replica, "DELETE FROM item", "INSERT INTO item (id, n) VALUES ('a', 3)")
    assert patches(replica) == {("item", "a"): ("update", {"n": 3, "note": None})}


def test_the_part_of_an_action_before_a_savepoint_stays(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(
        replica,
        "INSERT INTO item (id, n) VALUES ('a', 1), ('b', 1)",
        "SAVEPOINT one",
        "UPDATE item SET n = 2",
        "SAVEPOINT two",
        "DELETE FROM item",
        "INSERT INTO item (id) VALUES ('c')",
        "ROLLBACK TO two",
        "UPDATE item SET n = 3 WHERE id = 'b'",
        "RELEASE one",
    )
    assert patches(replica) == {
        ("item", "a"): inserted("a", n=2),
        ("item", "b"): inserted("b", n=3),
    }


def test_a_savepoint_left_open_ends_with_the_action(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(replica, "SAVEPOINT s", "INSERT INTO item (id) VALUES ('a')")
    assert set(patches(replica)) == {("item", "a")}
    do(replica, "INSERT INTO item (id) VALUES ('b')")
    assert len(replica.query("SELECT * FROM item")) == 2


# ---- conflicts -----------------------------------------------------------------------


def test_replace_deletes_what_stood_in_the_way(replica: Replica, do: Do, patches: Patches) -> None:
    do(replica, "INSERT INTO item (id, code, n) VALUES ('a', 'x', 1), ('b', 'y', 2)")
    do(replica, "REPLACE INTO item (id, code) VALUES ('c', 'x')")
    assert patches(replica) == {
        ("item", "a"): ("delete", None),
        ("item", "c"): inserted("c", code="x"),
    }
    do(replica, "REPLACE INTO item (id, code) VALUES ('b', 'x')")
    assert patches(replica) == {
        ("item", "b"): ("update", {"code": "x", "n": None}),
        ("item", "c"): ("delete", None),
    }
    do(replica, "UPDATE OR REPLACE item SET id = 'd', code = 'z'")
    assert patches(replica) == {
        ("item", "b"): ("delete", None),
        ("item", "d"): inserted("d", code="z"),
    }


def test_or_fail_keeps_the_rows_before_the_conflict(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('c', 1)")
    error = do(
        replica, "INSERT OR FAIL INTO item (id) VALUES ('a'), ('b'), ('c'), ('d')", swallow=True
    )
    assert isinstance(error, ConstraintError)
    assert patches(replica) == {("item", "a"): inserted("a"), ("item", "b"): inserted("b")}


def test_or_ignore_passes_the_conflict_over(replica: Replica, do: Do, patches: Patches) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('b', 1)")
    do(replica, "INSERT OR IGNORE INTO item (id, n) VALUES ('a', 2), ('b', 2), ('c', 2)")
    assert patches(replica) == {
        ("item", "a"): inserted("a", n=2),
        ("item", "c"): inserted("c", n=2),
    }


def test_an_upsert_is_an_insert_or_an_update(replica: Replica, do: Do, patches: Patches) -> None:
    upsert = (
        "INSERT INTO item (id, n) VALUES ('a', 1), ('b', 1) "
        "ON CONFLICT (id) DO UPDATE SET n = item.n + excluded.n"
    )
    do(replica, "INSERT INTO item (id, n) VALUES ('a', 5)")
    do(replica, upsert)
    assert patches(replica) == {
        ("item", "a"): ("update", {"n": 6}),
        ("item", "b"): inserted("b", n=1),
    }
    do(replica, "INSERT INTO item (id, n) VALUES ('a', 9) ON CONFLICT DO NOTHING")
    assert patches(replica) == {}


def test_a_swallowed_constraint_error_leaves_only_its_own_statement_out(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(replica, "INSERT INTO item (id, n) VALUES ('b', 1)")
    do(
        replica,
        "UPDATE item SET n = 2",
        "INSERT INTO item (id) VALUES ('a'), ('b')",
        "INSERT INTO pair (a, b, v) VALUES ('x', 1, 1000)",
        "INSERT INTO item (id) VALUES ('c')",
        swallow=True,
    )
    assert patches(replica) == {("item", "b"): ("update", {"n": 2}), ("item", "c"): inserted("c")}


def test_a_constraint_error_that_nobody_catches_takes_everything_back(
    replica: Replica, do: Do
) -> None:
    do(replica, "INSERT INTO item (id) VALUES ('b')")
    with pytest.raises(ConstraintError, match=r"UNIQUE constraint failed: item\.id"):
        do(replica, "INSERT INTO item (id) VALUES ('a')", "INSERT INTO item (id) VALUES ('b')")
    with pytest.raises(ConstraintError, match="CHECK constraint failed"):
        do(replica, "INSERT INTO pair (a, b, v) VALUES ('x', 1, 1000)")
    assert replica.query("SELECT id FROM item") == [{"id": "b"}]
    assert len(replica.log()) == 1


# ---- what statements do beside what they say -----------------------------------------


@pytest.mark.spec("A8")
def test_cascades_are_captured(replica: Replica, do: Do, patches: Patches) -> None:
    do(
        replica,
        "INSERT INTO item (id, parent) VALUES ('a', NULL), ('b', 'a'), ('c', 'b'), ('d', NULL)",
    )
    do(replica, "DELETE FROM item WHERE id = 'a'")
    assert patches(replica) == {("item", id): ("delete", None) for id in "abc"}


@pytest.mark.parametrize(
    ("rule", "op", "values"),
    [("SET NULL", "update", {"p": None}), ("SET DEFAULT", "update", {"p": "z"})],
)
def test_what_a_deleted_parent_does_to_its_children_is_captured(
    application: Callable[..., App], do: Do, patches: Patches, rule: str, op: str, values: Any
) -> None:
    schema = f"""
        CREATE TABLE t (
            id TEXT PRIMARY KEY, p TEXT DEFAULT 'z' REFERENCES t (id) ON DELETE {rule},
            audience_key TEXT NOT NULL
        )"""
    with application(schema).open(":memory:", user="alice") as replica:
        do(
            replica,
            "INSERT INTO t VALUES ('z', NULL, 'all'), ('a', NULL, 'all'), ('b', 'a', 'all')",
        )
        do(replica, "DELETE FROM t WHERE id = 'a'")
        assert patches(replica) == {("t", "a"): ("delete", None), ("t", "b"): (op, values)}


def test_a_changed_key_takes_its_children_along(
    application: Callable[..., App], do: Do, patches: Patches
) -> None:
    schema = """
        CREATE TABLE t (id TEXT PRIMARY KEY, audience_key TEXT NOT NULL);
        CREATE TABLE u (
            id TEXT PRIMARY KEY, t TEXT REFERENCES t (id) ON UPDATE CASCADE,
            audience_key TEXT NOT NULL
        )"""
    with application(schema).open(":memory:", user="alice") as replica:
        do(replica, "INSERT INTO t VALUES ('a', 'all')", "INSERT INTO u VALUES ('k', 'a', 'all')")
        do(replica, "UPDATE t SET id = 'b'")
        assert patches(replica)["u", "k"] == ("update", {"t": "b"})
        assert patches(replica)["t", "a"] == ("delete", None)


@pytest.mark.spec("A9")
def test_foreign_keys_are_checked_at_the_end_of_the_action(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(
        replica,
        "INSERT INTO item (id, parent) VALUES ('b', 'a')",
        "INSERT INTO item (id) VALUES ('a')",
    )
    assert set(patches(replica)) == {("item", "a"), ("item", "b")}
    with pytest.raises(ForeignKeyError, match="item c points to item with id = 'nowhere'"):
        do(replica, "INSERT INTO item (id, parent) VALUES ('c', 'nowhere')")
    with pytest.raises(ForeignKeyError, match="nowhere"):
        do(replica, "UPDATE item SET parent = 'nowhere' WHERE id = 'b'", swallow=True)
    assert len(replica.query("SELECT * FROM item")) == 2


def test_a_delete_of_everything_is_captured_row_by_row(
    replica: Replica, do: Do, patches: Patches
) -> None:
    """SQLite would empty a table at once, unseen, where the statement was prepared unwatched."""
    replica._engine.store.writer.execute("DELETE FROM pair")  # prepared, and kept
    for _ in range(2):
        do(replica, "INSERT INTO pair (a, b) VALUES ('x', 1), ('y', 2)")
        do(replica, "DELETE FROM pair")
        assert patches(replica) == {
            ("pair", 1, "x"): ("delete", None),
            ("pair", 2, "y"): ("delete", None),
        }


def test_executemany_and_returning_are_captured(
    path: str, application: Any, patches: Patches
) -> None:
    app = application()

    @app.action
    def many(ctx: Context) -> Any:
        ctx.executemany("INSERT INTO pair (a, b) VALUES (?, ?)", [("x", i) for i in range(3)])
        ctx.executemany("DELETE FROM pair WHERE b = :b", ({"b": b} for b in (0,)))
        ctx.executemany("DELETE FROM pair", [])
        return ctx.execute("UPDATE pair SET v = v + b RETURNING b, v AS sum")

    with app.open(path, user="alice") as replica:
        result = replica.run(many).result
        assert sorted((row["b"], row["sum"]) for row in result) == [(1, 8), (2, 9)]
        assert {key: values["v"] for key, (_, values) in patches(replica).items()} == {
            ("pair", 1, "x"): 8,
            ("pair", 2, "x"): 9,
        }


def test_an_insert_from_a_query_is_captured(replica: Replica, do: Do, patches: Patches) -> None:
    do(
        replica,
        "WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 40) "
        "INSERT INTO pair (a, b) SELECT 'x', i FROM c",
    )
    assert len(patches(replica)) == 40


def test_images_of_other_types_are_not_the_same() -> None:
    """No column gives 1 where it gave 1.0; should one do so, that is a change."""
    for image in [(1,), (1.0,), (True,), ("1",), (b"1",), (None,), ()]:
        assert same_row(image, tuple(image))
        for other in [(1,), (1.0,), (True,), ("1",), (b"1",), (None,), (1, 1), None]:
            alike = other is not None and list(map(repr, image)) == list(map(repr, other))
            assert same_row(image, other) is alike
    assert same_row(None, None)


@pytest.mark.parametrize("value", [1, 1.0, 0.0, 1e3, 2.0**53, 1e300, 0.5])
def test_a_float_without_fraction_is_a_float_in_every_patch(
    replica: Replica, do: Do, patches: Patches, value: float
) -> None:
    """SQLite stores it as an integer, to save space."""
    expected = repr(float(value))
    do(replica, f"INSERT INTO item (id, x) VALUES ('a', {value!r})")
    assert repr(patches(replica)["item", "a"][1]["x"]) == expected
    do(replica, "UPDATE item SET n = 1")
    assert patches(replica) == {("item", "a"): ("update", {"n": 1})}
    do(replica, "UPDATE item SET x = NULL")
    do(replica, f"UPDATE item SET x = {value!r}")
    assert repr(patches(replica)["item", "a"][1]) == f"{{'x': {expected}}}"
    do(
        replica,
        f"INSERT INTO item (id) VALUES ('a') ON CONFLICT (id) DO UPDATE SET x = {value!r}, n = 2",
    )
    assert patches(replica) == {("item", "a"): ("update", {"n": 2})}
    do(replica, f"REPLACE INTO item (id, x) VALUES ('a', {value!r})")
    assert patches(replica) == {("item", "a"): ("update", {"n": None})}


def test_a_row_from_before_a_migration_has_the_default_of_the_new_column(
    tmp_path: Path, application: Callable[..., App], do: Do, patches: Patches
) -> None:
    """SQLite does not rewrite rows when a column is added: the default stands in for it."""
    file = tmp_path / "replica.db"
    with application().open(file, user="alice") as replica:
        do(replica, "INSERT INTO item (id, n) VALUES ('a', 1), ('b', 1)")
    more = ["ALTER TABLE item ADD COLUMN extra DOUBLE PRECISION DEFAULT 7"]
    with application(migrations=more).open(file) as replica:
        do(replica, "UPDATE item SET n = 2 WHERE id = 'a'")
        assert patches(replica) == {("item", "a"): ("update", {"n": 2})}
        do(replica, "UPDATE item SET extra = 7.0")
        assert patches(replica) == {}
        do(replica, "UPDATE item SET extra = NULL WHERE id = 'b'")
        assert patches(replica) == {("item", "b"): ("update", {"extra": None})}
        do(replica, "UPDATE item SET id = 'c' WHERE id = 'a'")
        assert patches(replica)["item", "c"] == inserted("c", n=2, extra=7.0)


KEYS = st.sampled_from(["'a'", "'b'", "'c'"])
CODES = st.sampled_from(["NULL", "'x'", "'y'"])
OR = st.sampled_from(["", "OR IGNORE", "OR REPLACE", "OR FAIL", "OR ABORT"])
NUMBERS = st.sampled_from(["NULL", "0", "1", "1.0", "2"])
STATEMENTS = st.one_of(
    st.builds(
        "INSERT {} INTO item (id, code, x, parent) "
        "VALUES ({}, {}, {}, {}), ({}, {}, 1, NULL)".format,
        *(OR, KEYS, CODES, NUMBERS, st.one_of(st.just("NULL"), KEYS), KEYS, CODES),
    ),
    st.builds(
        "UPDATE {} item SET code = {}, x = {} WHERE id <= {}".format, OR, CODES, NUMBERS, KEYS
    ),
    st.builds("UPDATE {} item SET id = {} WHERE id = {}".format, OR, KEYS, KEYS),
    st.builds("DELETE FROM item WHERE id >= {}".format, KEYS),
    st.builds(
        "INSERT INTO item (id, n) VALUES ({}, 1) ON CONFLICT (id) DO UPDATE SET n = {}".format,
        *(KEYS, NUMBERS),
    ),
    st.sampled_from(["SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "DELETE FROM item"]),
    st.builds("SELECT id FROM item WHERE id = {}".format, KEYS),
)


@pytest.mark.spec("A8")
@given(st.lists(st.lists(STATEMENTS, min_size=1, max_size=6), min_size=1, max_size=4))
def test_what_is_captured_is_the_difference_of_before_and_after(
    actions: list[list[str]],
) -> None:
    """Whatever an action does, swallows and rolls back."""
    with make_application().open(":memory:", user="alice") as replica:
        before: dict[Any, Any] = {}
        for statements in actions:
            try:
                run_statements(replica, *statements, swallow=True)
            except ForeignKeyError:
                captured = {}
            else:
                captured = sent_patches(replica)
            rows = {row["id"]: dict(row) for row in replica.query("SELECT * FROM item")}
            for row in rows.values():
                del row["label"], row["audience_key"]
            assert repr(captured) == repr(
                {("item", id): difference(before.get(id), rows.get(id)) for _, id in captured}
            )
            assert {id for _, id in captured} == {
                id for id in before | rows if before.get(id) != rows.get(id)
            }
            before = rows


def difference(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Any:
    if new is None:
        return "delete", None
    values = {name: new[name] for name in sorted(new) if old is None or old[name] != new[name]}
    return ("insert" if old is None else "update"), values


# ---- failures ------------------------------------------------------------------------


@pytest.mark.parametrize("swallow", [False, True])
def test_an_action_whose_capture_fails_has_failed(
    replica: Replica, do: Do, swallow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not seen could not be undone. It is a failure of the machine, not of history."""

    class Broken:
        def get(self, _: str) -> None:
            raise KeyError("out of order")

    @replica._definition.action
    def translate(ctx: Context) -> None:
        try:
            ctx.execute("INSERT INTO item (id) VALUES ('a')")
        except Exception as error:
            raise LookupError("the application's own word") from error

    monkeypatch.setattr(replica._engine.store.capture, "_tables", Broken())
    with pytest.raises(MachineError, match="out of order"):
        do(replica, "INSERT INTO item (id) VALUES ('a')", swallow=swallow)
    with pytest.raises(MachineError, match="out of order"):
        replica.run(translate)
    monkeypatch.undo()
    assert replica.query("SELECT * FROM item") == []
    assert replica.log() == []
    do(replica, "INSERT INTO item (id) VALUES ('a')")


def test_what_is_written_outside_an_action_by_the_replica_itself_is_not_captured(
    replica: Replica, do: Do, patches: Patches
) -> None:
    do(replica, "INSERT INTO item (id) VALUES ('a')")
    replica._engine.store.writer.execute("UPDATE item SET n = 1")
    do(replica, "UPDATE item SET note = 'x'")
    assert patches(replica) == {("item", "a"): ("update", {"note": "x"})}
