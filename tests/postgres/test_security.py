"""Nothing leaves the server that a user may not see, and nothing is stored that they forge."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace
from tests.postgres.bridge import Served
from tests.postgres.cluster import execute
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.testing.by_hand import (
    APP,
    P1,
    P2,
    Clock,
    File,
    correct,
    create_project,
    insert,
    removal,
    row,
    update,
)

from synchrotron.core.ids import ActionId, Audience
from synchrotron.core.messages import (
    Denied,
    Early,
    Invalid,
    Ok,
    RowPatch,
    SentAction,
    SyncAnswer,
    encode,
)
from synchrotron.errors import ProtocolError, ServerError

SECRET = "the-secret-of-alice"
INJECTION = "x'); DROP TABLE item; --\"%s{}\\"


@pytest.fixture
def server(serve: Serve) -> Served:
    return serve(described(APP, given=False), clock=Clock())


@pytest.fixture
def alice(server: Served) -> File:
    """She has a project, with an item and a secret in its action's arguments."""
    alice = File(server, "alice", "a")  # type: ignore[arg-type]
    alice.ok(create_project(alice, 1, "p1", "alice"))
    alice.ok(alice.action(2, insert("x", 5), args={"note": SECRET}))
    return alice


@pytest.fixture
def eve(server: Served) -> File:
    """She has a project of her own."""
    eve = File(server, "eve", "e")  # type: ignore[arg-type]
    eve.ok(create_project(eve, 3, "p2", "eve"))
    return eve


def stored(server: Served) -> list[Any]:
    """All that is stored, but for which requests came."""
    tables = ("actions", "patches", "targets", "scopes", "audiences", "commits", "counter")
    there = [
        execute(server.database, f"SELECT * FROM synchrotron.{t} ORDER BY 1, 2") for t in tables
    ]
    return [
        *there,
        *(execute(server.database, f"SELECT * FROM {t} ORDER BY 1") for t in APP.schema.tables),
    ]


def denied(server: Served, send: Callable[[], SyncAnswer]) -> Denied:
    before = stored(server)
    answer = send()
    assert isinstance(answer, Denied), answer
    assert stored(server) == before
    return answer


# ---- what leaves -----------------------------------------------------------------------


@pytest.mark.spec("H7", "H8")
def test_rows_records_and_arguments_of_others_never_leave(alice: File, eve: File) -> None:
    sent = [encode(eve.send(take=False)), *(encode(c) for c in eve.snapshot())]
    # Neither by asking from the beginning, nor by claiming to see, or to have seen, more.
    eve.cursor, eve.token, eve.audiences = 0, "", [P1, P2]  # type: ignore[assignment]
    sent.append(encode(eve.send(take=False)))
    eve.floor = eve.key(-1000)
    sent.append(encode(eve.send(take=False)))
    for message in sent:
        assert SECRET.encode() not in message
        assert b"p1" not in message and b"aaaa" not in message


@pytest.mark.spec("H8")
def test_the_servers_role_reads_and_inserts_only_as_the_user_may_and_writes_nothing_else(
    server: Served, alice: File, eve: File
) -> None:
    with psycopg.connect(server.database, autocommit=True) as connection:
        connection.execute("SET ROLE synchrotron_server")

        def rows(table: str) -> int:
            [count] = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() or ()
            return int(count)

        readable = [f"synchrotron.{t}" for t in ("actions", "patches", "targets", "scopes")]
        tables = [*readable, "public.project", "public.project_member", "public.item"]
        assert [rows(table) for table in tables] == [0] * 7, "without a user nothing is there"
        connection.execute("SELECT set_config('synchrotron.user_id', 'eve', false)")
        assert [rows(table) for table in tables] == [1, 2, 2, 1, 1, 1, 0]
        for statement in (
            "INSERT INTO public.project (id, name) VALUES ('p1', 'mine')",
            "INSERT INTO public.project_member (id, project_id, user_id) VALUES ('m', 'p1', 'e')",
            "INSERT INTO public.item (id, project_id) VALUES ('i9', 'p1')",
            "UPDATE public.project SET name = 'mine'",
            "DELETE FROM public.item",
            "DELETE FROM synchrotron.actions",
            "UPDATE synchrotron.counter SET seq = 0",
            "SELECT * FROM synchrotron.clients",
            "SELECT * FROM synchrotron.audiences",
            "ALTER TABLE public.item DISABLE ROW LEVEL SECURITY",
            "CREATE TABLE public.mine (n integer)",
            "SET ROLE synchrotron_owner",
        ):
            try:
                connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                continue
            # The superuser who logged in may take any role; one who is only granted it may not.
            assert statement.startswith("SET ROLE"), f"{statement} was not refused"
    [(super_, bypass, login)] = execute(
        server.database,
        "SELECT rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = %s",
        "synchrotron_server",
    )
    assert (super_, bypass, login) == (False, False, False)
    assert execute(
        server.database,
        "SELECT pg_has_role('synchrotron_server', 'synchrotron_owner', 'MEMBER')",
    ) == [(False,)]


# ---- what is forged --------------------------------------------------------------------


@pytest.mark.spec("H9")
@pytest.mark.parametrize("forged", ["user", "client"])
def test_forged_users_and_clients_are_denied(
    server: Served, alice: File, eve: File, forged: str
) -> None:
    if forged == "user":
        sent = eve.action(10, insert("e", in_=P2), user="alice")
    else:
        sent = alice.action(10, insert("e", in_=P2), user="eve", n=77)
    answer = denied(server, lambda: eve.send(sent))
    assert "its own user's and its own client's" in answer.reason


@pytest.mark.spec("H9")
def test_a_client_id_of_another_user_is_refused(server: Served, alice: File) -> None:
    thief = File(server, "eve", "a")  # type: ignore[arg-type]
    before = stored(server)
    with pytest.raises(ProtocolError, match="belongs to another user"):
        thief.send(thief.action(10, insert("e", in_=P2)))
    assert stored(server) == before


@pytest.mark.spec("S9")
@pytest.mark.parametrize(
    "patch",
    [
        RowPatch(
            "item", ["e"], P2, "insert", {"id": "e", "n": 1, "place": None, "project_id": "p1"}
        ),
        RowPatch(
            "item", ["e"], P1, "insert", {"id": "e", "n": 1, "place": None, "project_id": "p1"}
        ),
        RowPatch("item", ["x"], P2, "update", {"n": 0}),
        RowPatch("item", ["x"], P2, "delete"),
        RowPatch("item", ["x"], P1, "delete"),
        RowPatch("item", ["mine"], P2, "update", {"project_id": "p1"}),
        row("note", P1, id="n", due=None, cost=None, done=False, audience_key=P1),
        row("note", P2, id="n", due=None, cost=None, done=False, audience_key=P1),
        row("project_member", P1, id="m", project_id="p1", user_id="eve"),
        row("project_member", P2, id="m", project_id="p1", user_id="eve"),
    ],
    ids=str,
)
def test_forged_audiences_are_denied(
    server: Served, alice: File, eve: File, patch: RowPatch
) -> None:
    eve.ok(eve.action(4, insert("mine", in_=P2)))
    answer = denied(server, lambda: eve.send(eve.action(10, patch)))
    assert (answer.table, answer.key) == (patch.table, patch.key)


@pytest.mark.spec("S9")
def test_a_generated_audience_cannot_be_written(server: Served, eve: File) -> None:
    patch = insert("e", in_=P2)
    assert patch.values is not None
    patch.values["audience_key"] = P2
    answer = denied(server, lambda: eve.send(eve.action(10, patch)))
    assert "audience_key" in answer.reason


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (RowPatch("pg_class", ["x"], P2, "delete"), "not a table"),
        (RowPatch("synchrotron.actions", ["x"], P2, "delete"), "not a table"),
        (RowPatch("item", ["e"], P2, "update", {"nothing": 1}), "no column nothing"),
        (RowPatch("item", ["e"], P2, "update", {INJECTION: 1}), "no column"),
        (RowPatch(INJECTION, ["e"], P2, "delete"), "not a table"),
        (RowPatch("item", ["e\0"], P2, "delete"), "NUL"),
        (RowPatch("item", ["e"], Audience("project:p2\0"), "delete"), "NUL"),
        (RowPatch("item", ["e"], P2, "update", {"n": 2**31}), "range"),
        (RowPatch("item", [["e"]], P2, "delete"), "not text"),
        (RowPatch("item", ["e" * 3_000], P2, "delete"), "can be indexed"),
        (RowPatch("item", ["e"], Audience("project:" + "p" * 6_000), "delete"), "can be indexed"),
    ],
    ids=lambda value: str(value)[:80],
)
def test_patches_that_no_table_prescribes_are_denied(
    server: Served, eve: File, patch: RowPatch, reason: str
) -> None:
    answer = denied(server, lambda: eve.send(eve.action(10, patch)))
    assert reason in answer.reason


def test_a_declared_audience_that_cannot_be_stored_denies_its_action(
    server: Served, eve: File
) -> None:
    for audience, reason in (("project:" + "p" * 6_000, "can be indexed"), ("project:\0", "NUL")):
        action = eve.action(10, audiences=(P2, Audience(audience)))
        answer = denied(server, lambda action=action: eve.send(action))  # type: ignore[misc]
        assert reason in answer.reason


def test_sql_in_any_field_is_only_text(server: Served, eve: File) -> None:
    eve.ok(
        eve.action(
            10,
            RowPatch(
                "item",
                [INJECTION],
                P2,
                "insert",
                {"id": INJECTION, "n": 1, "place": None, "project_id": "p2"},
            ),
            name=INJECTION,
            args={INJECTION: [INJECTION]},
            audiences=(P2,),
        )
    )
    assert execute(server.database, "SELECT id FROM item") == [(INJECTION,)]
    [name] = execute(server.database, "SELECT name FROM synchrotron.actions WHERE name <> 'act'")
    assert name == (INJECTION,)
    eve.cursor, eve.token = 0, ""  # type: ignore[assignment]
    event = eve.pull().events[-1]
    assert (event.record.args, event.patches[0].key) == ({INJECTION: [INJECTION]}, [INJECTION])


@pytest.mark.parametrize("field", ["name", "args", "audiences"])
def test_records_that_cannot_be_stored_are_denied(server: Served, eve: File, field: str) -> None:
    value: Any = {"name": "a\0", "args": {"a": "\0"}, "audiences": (Audience("\0"),)}[field]
    answer = denied(server, lambda: eve.send(eve.action(10, insert("e", in_=P2), **{field: value})))
    assert "NUL" in answer.reason


@pytest.mark.spec("H1")
def test_of_a_refused_upload_nothing_stays_not_even_the_audience(server: Served, eve: File) -> None:
    before = stored(server)
    new = Audience("project:new")
    answer = eve.send(eve.action(10, insert("e", -1, in_=new)))
    assert isinstance(answer, Invalid)
    assert (answer.table, answer.key) == ("item", ["e"])
    assert stored(server) == before


@pytest.mark.spec("O4")
def test_order_keys_from_the_future_are_refused(server: Served, eve: File) -> None:
    before = stored(server)
    assert isinstance(eve.send(eve.action(60_001, insert("e", in_=P2))), Early)
    assert stored(server) == before


@pytest.mark.spec("O6", "H9")
def test_ids_of_others_tell_nothing_and_are_not_taken(
    server: Served, alice: File, eve: File
) -> None:
    theirs: SentAction = alice.action(10, insert("e", in_=P2), n=1, user="eve")
    answer = denied(server, lambda: eve.send(theirs))
    unknown = alice.action(11, insert("e", in_=P2), n=99, user="eve")
    assert denied(server, lambda: eve.send(unknown)).reason == answer.reason


@pytest.mark.spec("H4a", "S5")
def test_corrections_without_a_right_are_denied_and_unknown_and_hidden_are_alike(
    server: Served, alice: File, eve: File
) -> None:
    before = stored(server)
    hidden = ActionId(f"{'a' * 24}-2")
    unknown = ActionId(f"{'a' * 24}-99")
    mine = ActionId(f"{'e' * 24}-1")
    for corrections in (
        [
            correct(hidden, update("x", n=0)),
            correct(unknown, update("x", n=0)),
            correct(hidden, insert("new", in_=P2)),
            correct(mine, update("x", n=0)),
        ],
        [correct(hidden, removal("x")), correct(mine, removal("x"))],
    ):
        answer = eve.send(corrections=corrections)
        assert isinstance(answer, Ok)
        assert [c.seq for c in answer.corrected] == [None] * len(corrections)
        assert stored(server) == before


@pytest.mark.spec("O6")
def test_a_number_that_was_used_does_nothing(server: Served, eve: File) -> None:
    request = eve.request(eve.action(10, insert("e", in_=P2)))
    assert isinstance(eve.transport.exchange(request), Ok)
    before = stored(server)
    assert type(eve.transport.exchange(request)).__name__ == "Duplicate"
    assert stored(server) == before


@pytest.mark.parametrize("number", [2**63, 2**200])
def test_numbers_that_no_counter_reaches_are_refused(
    server: Served, eve: File, number: int
) -> None:
    before = stored(server)
    request = eve.request()
    exchange, question = request.exchange, request.question
    for odd in (
        replace(request, exchange=replace(exchange, number=number)),
        replace(request, question=replace(question, cursor=number)),
    ):
        with pytest.raises(ProtocolError):
            server.sync("eve", odd)
    assert stored(server) == before


# ---- policies --------------------------------------------------------------------------


@pytest.mark.spec("H6")
def test_a_policy_that_is_changed_counts_from_the_next_upload(server: Served, eve: File) -> None:
    """The shadow tables carry copies, which are looked at in every upload."""
    eve.ok(eve.action(10, insert("e", 1, in_=P2)))
    execute(
        server.database,
        "CREATE POLICY small ON item AS RESTRICTIVE FOR UPDATE USING (n < 10)",
    )
    eve.ok(eve.action(11, update("e", P2, n=9)))
    answer = denied(server, lambda: eve.send(eve.action(12, update("e", P2, n=10))))
    assert (answer.table, answer.key) == ("item", ["e"])
    execute(server.database, "DROP POLICY small ON item")
    eve.ok(eve.action(13, update("e", P2, n=10)))


@pytest.mark.spec("H6")
def test_a_policy_whose_clause_moves_counts_from_the_next_upload(server: Served, eve: File) -> None:
    """The same condition of a row as it becomes, and then of the row as it was."""
    eve.ok(eve.action(10, insert("e", 5, in_=P2)))
    policy = "CREATE POLICY small ON item AS RESTRICTIVE FOR UPDATE {} (n < 3)"
    execute(server.database, policy.format("WITH CHECK"))
    eve.ok(eve.action(11, update("e", P2, n=2)), eve.action(12, update("e", P2, n=1)))
    execute(server.database, "ALTER POLICY small ON item WITH CHECK (n < 9)")
    eve.ok(eve.action(13, update("e", P2, n=5)))
    execute(server.database, "ALTER POLICY small ON item WITH CHECK (n < 3)")
    eve.ok(eve.action(14, insert("f", 1, in_=P2)))
    execute(server.database, f"DROP POLICY small ON item; {policy.format('USING')}")
    denied(server, lambda: eve.send(eve.action(15, update("e", P2, n=1))))


@pytest.mark.spec("H6")
def test_a_policy_that_hides_a_row_denies_what_it_passes_over(serve: Serve) -> None:
    """PostgreSQL skips a hidden row without an error: what was written is counted."""
    policies = """
        CREATE POLICY mine ON item FOR DELETE USING (n = 0);
        CREATE POLICY mine_too ON item FOR UPDATE USING (n < 5);
    """
    server = serve(described(APP, given=False, policies=policies), clock=Clock())
    file = File(server, "alice", "a")  # type: ignore[arg-type]
    file.ok(create_project(file, 1, "p1", "alice"))
    file.ok(file.action(2, insert("x", 7), insert("y", 0)))
    for sent in (update("x", n=1), RowPatch("item", ["x"], P1, "delete")):
        answer = denied(server, lambda sent=sent: file.send(file.action(3, sent)))  # type: ignore[misc]
        assert (answer.table, answer.key) == ("item", ["x"])
    file.ok(file.action(5, update("y", n=0)), file.action(6, RowPatch("item", ["y"], P1, "delete")))


@pytest.mark.spec("H8")
def test_nothing_is_uploaded_while_a_table_has_no_row_level_security(
    server: Served, eve: File
) -> None:
    execute(server.database, "ALTER TABLE item DISABLE ROW LEVEL SECURITY")
    before = stored(server)
    with pytest.raises(ServerError, match="row level security is switched off"):
        eve.send(eve.action(10, insert("e", in_=P2)))
    assert stored(server) == before
