"""What an upload brings is stored as it was sent, and once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.postgres.cluster import drop_database, execute, new_database
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.testing.by_hand import APP, Clock, File, correct, create_project, insert, update

from synchrotron.app.schema import read_schema
from synchrotron.core.ids import Audience
from synchrotron.core.messages import Denied, Ok, RowPatch, SyncAnswer
from synchrotron.server.parameters import Columns, columns_of, text_array


@pytest.mark.spec("H5")
def test_a_row_that_a_correction_makes_is_stored_as_one_that_an_action_makes(serve: Serve) -> None:
    server = serve(described(APP, given=False), clock=Clock())
    a = File(server, "alice", "a")  # type: ignore[arg-type]
    a.ok(create_project(a, 1, "p1", "alice"))
    without_effect = a.action(10)
    a.ok(without_effect)
    a.ok(a.action(20, insert("by action")), corrections=[correct(without_effect, insert("late"))])
    stored = execute(server.database, "SELECT key FROM synchrotron.targets ORDER BY key")
    assert {'["late"]', '["by action"]'} <= {key for (key,) in stored}


@pytest.mark.spec("H5")
@pytest.mark.parametrize(
    "patch",
    [
        pytest.param(insert("t2"), id="new rows are inserted by the user"),
        pytest.param(update("t1", n=2), id="others are replaced by the end state"),
    ],
)
def test_what_fails_behind_the_rows_is_blamed_on_none_of_them(
    serve: Serve, patch: RowPatch
) -> None:
    server = serve(described(APP, given=False), clock=Clock())
    a = File(server, "alice", "a")  # type: ignore[arg-type]
    a.ok(create_project(a, 1, "p1", "alice"))
    a.ok(a.action(10, insert("t1")))
    action = a.action(20, patch)
    execute(server.database, "ALTER FUNCTION synchrotron.store RENAME TO elsewhere")
    with pytest.raises(psycopg.ProgrammingError) as raised:
        a.send(action)
    assert raised.value.sqlstate == "42883"  # there is no such function
    execute(server.database, "ALTER FUNCTION synchrotron.elsewhere RENAME TO store")
    a.ok(action)


NINES = r"""
    CREATE POLICY nines ON doc AS RESTRICTIVE FOR INSERT WITH CHECK (j::text <> '{"a":9,"b":9}');
"""


@pytest.mark.spec("A5")
def test_a_policy_sees_one_text_of_a_json_value_however_it_was_sent(serve: Serve) -> None:
    docs = SimpleNamespace(
        schema=read_schema("""
            CREATE TABLE doc (
                id TEXT PRIMARY KEY, j JSON,
                audience_key TEXT GENERATED ALWAYS AS ('all') STORED
            );
        """),
        audiences="SELECT 'alice' AS user_id, 'all' AS audience_key",
    )
    server = serve(described(docs, given=False, policies=NINES), clock=Clock())  # type: ignore[arg-type]
    a = File(server, "alice", "a")  # type: ignore[arg-type]
    a.pull()

    def send(id: str, j: dict[str, int]) -> SyncAnswer:
        doc = RowPatch("doc", [id], Audience("all"), "insert", {"id": id, "j": j})
        return a.send(a.action(10 + a.n, doc))

    assert isinstance(send("in order", {"a": 9, "b": 9}), Denied)
    assert isinstance(send("in another", {"b": 9, "a": 9}), Denied)
    assert isinstance(send("others", {"b": 1, "a": 2}), Ok)
    assert execute(server.database, "SELECT j::text FROM doc") == [('{"a":2,"b":1}',)]


@pytest.fixture(scope="module")
def connection() -> Iterator[psycopg.Connection]:
    database = new_database()
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection
    drop_database(database)


texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
) | st.sampled_from(["", "NULL", "{}", '"', "\\", "a,b", '","', " x ", "\n", "\x01", "é"])


@settings(max_examples=200)
@given(st.lists(texts, max_size=5))
def test_an_array_holds_the_texts_that_it_was_made_of(
    connection: psycopg.Connection, given: list[str]
) -> None:
    [[read]] = connection.execute("SELECT %s::text[]", (text_array(given),))
    assert read == given


def test_an_array_refuses_a_nul() -> None:
    for texts in (["a\0b"], ["\0", "a"]):
        with pytest.raises(ValueError, match="NUL"):
            text_array(texts)


@pytest.mark.parametrize("rows", [[], [("a", 1, True)], [('"', 2, False), ("b", -3, True)]])
def test_rows_become_an_array_for_each_column(
    connection: psycopg.Connection, rows: list[tuple[str, int, bool]]
) -> None:
    columns = Columns(name="text", n="bigint", is_new="boolean")
    read = connection.execute(
        f"SELECT * FROM unnest({columns.placeholders})",
        columns.arrays(*columns_of(rows, 3)),
    )
    assert read.fetchall() == rows
