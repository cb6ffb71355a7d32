"""New rows are inserted by the acting user, and what that cannot judge is judged as ever (H6)."""

from __future__ import annotations

import threading

import psycopg
import pytest
from tests.postgres.bridge import Served
from tests.postgres.cluster import execute
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.server.running import eventually
from tests.testing.by_hand import (
    APP,
    P1,
    P2,
    Clock,
    File,
    create_project,
    delete,
    insert,
    row,
    update,
)

from synchrotron.core.ids import Audience
from synchrotron.core.messages import Denied, Invalid, RowPatch, SentAction, SyncAnswer
from synchrotron.server.shadow import Shadow

COUNT = 300
"""More than one statement takes."""


@pytest.fixture
def server(serve: Serve) -> Served:
    policy = "CREATE POLICY small ON item AS RESTRICTIVE FOR INSERT WITH CHECK (n < 10)"
    return serve(described(APP, given=False, policies=policy), clock=Clock())


@pytest.fixture
def file(server: Served) -> File:
    """Alice, with two projects."""
    file = File(server, "alice", "a")  # type: ignore[arg-type]
    file.ok(create_project(file, 1, "p1", "alice"))
    file.ok(create_project(file, 2, "p2", "alice"))
    return file


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each time that writes are tried in the shadow."""
    tries, seen = Shadow.tries, list[int]()

    def noted(self: Shadow, writes: object) -> object:
        seen.append(1)
        return tries(self, writes)  # type: ignore[arg-type]

    monkeypatch.setattr(Shadow, "tries", noted)
    return seen


def many(file: File, **others: RowPatch) -> list[SentAction]:
    """Actions that each insert a row, but for some by their place."""
    return [
        file.action(10 + i, others.get(f"at_{i}") or insert(f"i{i}", i % 7)) for i in range(COUNT)
    ]


def items(server: Served) -> list[tuple[object, ...]]:
    return execute(server.database, "SELECT id, n FROM item ORDER BY id")


@pytest.mark.spec("H5", "H6")
def test_new_rows_are_inserted_without_being_tried_before(
    server: Served, file: File, tried: list[int]
) -> None:
    tried.clear()
    answer = file.ok(*many(file))
    assert answer.accepted == list(range(answer.accepted[0], answer.accepted[0] + COUNT))
    assert not tried
    assert items(server) == sorted((f"i{i}", i % 7) for i in range(COUNT))
    file.ok(file.action(1000, update("i0", n=9)), file.action(1001, insert("z")))
    assert tried


@pytest.mark.spec("H5", "H6", "S9")
@pytest.mark.parametrize(
    ("patch", "kind", "reason"),
    [
        (insert("x", 10), Denied, "a policy forbids"),
        (insert("x", -1), Invalid, "check constraint"),
        (insert("x", place=1), Invalid, "unique constraint"),
        (RowPatch("item", ["x"], P2, "insert", insert("x").values), Denied, "its audience_key is"),
    ],
)
def test_of_many_new_rows_the_one_that_cannot_be_is_named_and_nothing_stays(
    server: Served, file: File, patch: RowPatch, kind: type[Denied | Invalid], reason: str
) -> None:
    actions = many(file, at_7=insert("y", place=1), at_270=patch)
    answer = file.send(*actions)
    assert isinstance(answer, kind), answer
    assert (answer.action_id, answer.key) == (actions[270].record.id, ["x"])
    assert reason in answer.reason
    assert items(server) == []


@pytest.mark.spec("H1", "H7")
def test_an_action_that_is_denied_stops_an_upload_also_where_it_inserts_nothing(
    server: Served, file: File
) -> None:
    eve = File(server, "eve", "e")  # type: ignore[arg-type]
    eve.ok(create_project(eve, 3, "p3", "eve"))
    declaring = file.action(10, audiences=("project:p3",))
    answer = file.send(declaring, file.action(11, insert("x")))
    assert isinstance(answer, Denied), answer
    assert answer.action_id == declaring.record.id
    assert items(server) == []


@pytest.mark.spec("H6")
def test_a_policy_for_some_roles_alone_is_one_for_everyone(server: Served, file: File) -> None:
    """All users act under one role, and such a policy would not count for it."""
    execute(
        server.database,
        "CREATE POLICY smaller ON item AS RESTRICTIVE FOR INSERT TO synchrotron_owner "
        "WITH CHECK (n < 3)",
    )
    file.ok(file.action(10, insert("a", 2)))
    large = file.action(12, insert("c", 3))
    answer = file.send(file.action(11, insert("b", 1)), large)
    assert isinstance(answer, Denied), answer
    assert (answer.action_id, answer.key) == (large.record.id, ["c"])


@pytest.mark.spec("H5", "H6")
def test_a_row_of_which_something_is_known_is_judged_at_its_place(
    server: Served, file: File
) -> None:
    """It is inserted beneath what deletes it: in the end it is not there."""
    bob = File(server, "alice", "b")  # type: ignore[arg-type]
    bob.pull()
    file.ok(file.action(20, insert("x", 1)), file.action(40, delete("x")))
    bob.pull()
    bob.ok(bob.action(30, insert("x", 2)))
    assert items(server) == []


# ---- what judges a row by more than itself ----------------------------------------------

RESTRICTIVE = "CREATE POLICY noted ON item AS RESTRICTIVE FOR INSERT WITH CHECK ({})"
HAS_NOTE = "EXISTS (SELECT FROM public.note WHERE note.audience_key = 'project:' || {})"
NOTED = "CREATE OR REPLACE FUNCTION noted(p text) RETURNS boolean STABLE LANGUAGE sql BEGIN ATOMIC "
LOOKING = {
    "a subquery": RESTRICTIVE.format(HAS_NOTE.format("project_id")),
    "a function": (
        f"{NOTED} SELECT {HAS_NOTE.format('p')}; END; {RESTRICTIVE.format('noted(project_id)')}"
    ),
    "a domain": (
        f"{NOTED} SELECT {HAS_NOTE.format('p')}; END;"
        "CREATE DOMAIN noted_project AS text CHECK (noted(VALUE));"
        + RESTRICTIVE.format("project_id::noted_project IS NOT NULL")
    ),
    "a policy of a table of one's own": (
        "CREATE TABLE permit (p text); INSERT INTO permit VALUES ('p1');"
        "GRANT SELECT ON permit TO PUBLIC; ALTER TABLE permit ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY shown ON permit FOR SELECT USING ({HAS_NOTE.format('p')});"
        + RESTRICTIVE.format("EXISTS (SELECT FROM permit WHERE p = project_id)")
    ),
    "a function among ours": (
        f"{NOTED.replace('noted', 'synchrotron.noted')} SELECT {HAS_NOTE.format('p')}; END;"
        + RESTRICTIVE.format("synchrotron.noted(project_id)")
    ),
    "a query in a text": RESTRICTIVE.format(
        "EXISTS (SELECT FROM ts_stat('SELECT to_tsvector(id) FROM public.note'))"
    ),
    "a check": (
        f"{NOTED} SELECT {HAS_NOTE.format('p')}; END;"
        "ALTER TABLE item ADD CHECK (n = 0 OR NOT noted(project_id))"
    ),
    "a check in place of another": (
        f"{NOTED} SELECT {HAS_NOTE.format('p')}; END;"
        "ALTER TABLE item DROP CONSTRAINT item_n_check;"
        "ALTER TABLE item ADD CHECK (n = 0 OR NOT noted(project_id))"
    ),
    "a trigger": (
        "CREATE FUNCTION halve() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.n := NEW.n / 2; RETURN NEW; END $$;"
        "CREATE TRIGGER halving BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION halve()"
    ),
}


def note(id: str) -> RowPatch:
    return row("note", P1, id=id, audience_key=P1)


def self_contained(server: Served) -> set[object]:
    return {name for (name,) in execute(server.database, SELF_CONTAINED)}


SELF_CONTAINED = "SELECT * FROM synchrotron.self_contained_tables()"


@pytest.mark.parametrize(
    "policy",
    [
        "n < 10",
        "synchrotron.user_id() = 'alice' OR project_id LIKE 'p%'",
        "current_setting('request.jwt.claim.sub') <> '' AND length(id) < 100",
    ],
)
def test_what_looks_at_the_row_and_the_user_alone_leaves_a_table_self_contained(
    serve: Serve, policy: str
) -> None:
    """Else every upload would be judged the longer way, and all be well."""
    given = described(APP, given=False, policies=RESTRICTIVE.format(policy))
    assert self_contained(serve(given)) == set(APP.schema.tables)


def test_policies_of_other_writes_leave_a_table_self_contained(serve: Serve) -> None:
    policy = RESTRICTIVE.replace("INSERT WITH CHECK", "UPDATE USING")
    given = described(APP, given=False, policies=policy.format(HAS_NOTE.format("project_id")))
    assert self_contained(serve(given)) == set(APP.schema.tables)


@pytest.mark.spec("H6", "H7")
@pytest.mark.parametrize("looks", LOOKING)
def test_what_may_look_at_other_rows_has_them_judged_in_the_shadow(
    server: Served, file: File, looks: str, tried: list[int]
) -> None:
    """Rights are those before an action, for all its rows in whatever order they are written."""
    execute(server.database, LOOKING[looks])
    file.send(file.action(9, insert("y"), note("m")))
    tried.clear()
    answer = file.send(file.action(10, note("n"), insert("x")))
    assert tried
    assert "item" not in self_contained(server)
    if "POLICY" in LOOKING[looks]:
        assert isinstance(answer, Denied), answer
        assert items(server) == []


@pytest.mark.spec("H6", "H7")
def test_row_level_security_on_a_table_that_memberships_are_read_from_is_noticed(
    serve: Serve, tried: list[int]
) -> None:
    """Its policies may look at rows of the same upload."""
    server = serve(described(APP, given=True), clock=Clock())
    members = "('alice', 'project:p1')"
    execute(server.database, f"INSERT INTO public.given_members VALUES {members}")
    file = File(server, "alice", "a")  # type: ignore[arg-type]
    file.pull()
    file.ok(file.action(10, insert("x")))
    tried.clear()
    file.ok(file.action(11, insert("y")))
    assert not tried
    execute(
        server.database,
        "ALTER TABLE given_members ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY shown ON given_members FOR SELECT USING (true)",
    )
    file.send(file.action(12, insert("z")))
    assert tried
    assert self_contained(server) == set()


@pytest.mark.spec("H2", "H6")
def test_new_rows_on_which_rights_to_others_depend_change_rights(
    server: Served, file: File, tried: list[int]
) -> None:
    """Else an upload that was judged before them would be stored after them."""
    execute(server.database, LOOKING["a subquery"])
    file.send(file.action(9, insert("y")))
    tried.clear()
    answer = file.ok(file.action(10, note("n")))
    assert not tried
    assert execute(server.database, "SELECT rights_seq FROM synchrotron.counter") == [
        (answer.accepted[0],)
    ]


@pytest.mark.spec("H6")
def test_a_function_that_is_replaced_while_the_server_runs_is_asked_before_the_action(
    server: Served, file: File
) -> None:
    always = f"{NOTED} SELECT p IS NOT NULL; END;"
    execute(server.database, f"{always} {RESTRICTIVE.format('noted(project_id)')}")
    file.ok(file.action(9, insert("y")))
    execute(server.database, f"{NOTED} SELECT {HAS_NOTE.format('p')}; END;")
    answer = file.send(file.action(10, note("n"), insert("x")))
    assert isinstance(answer, Denied), answer


@pytest.mark.spec("H6")
def test_a_policy_that_another_server_copied_meanwhile_counts(server: Served, file: File) -> None:
    """An upload waits for its turn, knowing what was installed before."""
    other = Served(server.database, clock=Clock())
    try:
        bob = File(other, "bob", "b")  # type: ignore[arg-type]
        bob.ok(create_project(bob, 5, "p5", "bob"))
        file.pull()
        execute(
            server.database,
            "CREATE POLICY smaller ON item AS RESTRICTIVE FOR INSERT TO synchrotron_owner "
            "WITH CHECK (n < 3)",
        )
        answers: list[SyncAnswer] = []
        large = file.action(30, insert("x", 5))
        uploading = threading.Thread(target=lambda: answers.append(file.send(large)))
        with psycopg.connect(server.database) as holding:
            holding.execute(
                "SELECT FROM synchrotron.audiences WHERE audience = 'project:p1' FOR UPDATE"
            )
            uploading.start()
            eventually(lambda: bool(execute(server.database, WAITING)))
            bob.ok(bob.action(31, insert("z", in_=Audience("project:p5"))))
        uploading.join(30)
        [answer] = answers
        assert isinstance(answer, Denied), answer
    finally:
        other.close()


@pytest.mark.spec("H6")
def test_a_policy_that_is_altered_while_an_upload_waits_for_its_table_counts(
    server: Served, file: File
) -> None:
    answers: list[SyncAnswer] = []
    large = file.action(30, note("n"), insert("x", 50))
    uploading = threading.Thread(target=lambda: answers.append(file.send(large)))
    with psycopg.connect(server.database) as altering:
        noted = HAS_NOTE.format("project_id")
        altering.execute(f"ALTER POLICY small ON item WITH CHECK (n < 10 OR {noted})".encode())
        uploading.start()
        eventually(lambda: bool(execute(server.database, WAITING)))
    uploading.join(30)
    [answer] = answers
    assert isinstance(answer, Denied), answer


WAITING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
