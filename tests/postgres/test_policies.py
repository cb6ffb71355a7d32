"""What a policy reads counts as it was before each action, however it reads it (H6)."""

import pytest
from tests.postgres.bridge import Served
from tests.postgres.cluster import drop_database, execute, new_database
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.testing.by_hand import (
    APP,
    P1,
    Clock,
    File,
    create_project,
    delete,
    insert,
    membership,
    update,
)

from synchrotron.core.messages import Denied, RowPatch, SentAction
from synchrotron.server.install import install

OPEN = "EXISTS (SELECT FROM public.project WHERE id = {} AND name <> 'closed')"
POLICY = "CREATE POLICY open ON item FOR INSERT WITH CHECK ({})"
CALLED = POLICY.format("is_open(project_id)")
HEAD = "CREATE FUNCTION is_open(p text) RETURNS boolean STABLE"
READING = {
    "a subquery": POLICY.format(OPEN.format("project_id")),
    "a function with its statements": (
        f"{HEAD} LANGUAGE sql BEGIN ATOMIC SELECT {OPEN.format('p')}; END; {CALLED}"
    ),
    "a function with its text": f"{HEAD} LANGUAGE sql AS $$ SELECT {OPEN.format('p')} $$; {CALLED}",
    "a security definer": (
        f"{HEAD} LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS "
        f"$$ BEGIN RETURN {OPEN.format('p')}; END $$; {CALLED}"
    ),
    "a function that calls one": (
        f"{HEAD.replace('is_open', 'asked')} LANGUAGE plpgsql AS "
        f"$$ BEGIN RETURN {OPEN.format('p')}; END $$;"
        f"{HEAD} LANGUAGE sql RETURN asked(p); {CALLED}"
    ),
    "an operator": (
        f"{HEAD} LANGUAGE sql AS $$ SELECT {OPEN.format('p')} $$;"
        "CREATE OPERATOR public.?? (FUNCTION = is_open, RIGHTARG = text);"
        + POLICY.format("OPERATOR(public.??) project_id")
    ),
    "a view": (
        "CREATE VIEW open_projects WITH (security_invoker) AS "
        "SELECT id FROM project WHERE name <> 'closed';"
        "GRANT SELECT ON open_projects TO PUBLIC;"
        + POLICY.format("EXISTS (SELECT FROM open_projects AS o WHERE o.id = project_id)")
    ),
}


def alice_in_a_project(serve: Serve, policies: str | None) -> tuple[Served, File]:
    server = serve(described(APP, given=False, policies=policies), clock=Clock())
    file = File(server, "alice", "a")  # type: ignore[arg-type]
    file.ok(create_project(file, 1, "p1", "alice"))
    return server, file


def renamed(file: File, ms: int, name: str) -> SentAction:
    return file.action(ms, RowPatch("project", ["p1"], P1, "update", {"name": name}))


@pytest.mark.spec("H6")
@pytest.mark.parametrize("how", READING)
def test_an_action_is_judged_after_the_one_before_it_whatever_a_policy_reads(
    serve: Serve, how: str
) -> None:
    """In one upload: who closes a project may write in it no more, who opens it may."""
    _, file = alice_in_a_project(serve, READING[how])
    file.ok(file.action(2, insert("x")))
    late = file.action(4, insert("y"))
    answer = file.send(renamed(file, 3, "closed"), late)
    assert isinstance(answer, Denied), answer
    assert (answer.action_id, answer.table, answer.key) == (late.record.id, "item", ["y"])
    file.ok(renamed(file, 5, "closed"))
    file.ok(renamed(file, 6, "open"), file.action(7, insert("z")))


@pytest.mark.spec("H6")
def test_what_an_operators_new_policy_reads_counts_from_the_next_upload(serve: Serve) -> None:
    server, file = alice_in_a_project(serve, None)
    policy = READING["a subquery"].replace("ON item", "ON item AS RESTRICTIVE")
    execute(server.database, policy)
    for ms in (2, 4):
        late = file.action(ms + 1, insert(f"y{ms}"))
        answer = file.send(renamed(file, ms, "closed"), late)
        assert isinstance(answer, Denied), answer
        assert answer.action_id == late.record.id
    file.ok(file.action(6, insert("z")))


@pytest.mark.parametrize(
    ("policies", "want"),
    [
        (None, []),
        ("CREATE POLICY small ON item FOR INSERT WITH CHECK (n < 10)", []),
        (READING["a subquery"], ["project"]),
        (READING["a function with its statements"], ["project"]),
        (READING["a security definer"], ["item", "note", "project", "project_member"]),
        (
            f"{HEAD} LANGUAGE sql BEGIN ATOMIC SELECT {OPEN.format('p')}; END;"
            "CREATE DOMAIN open_project AS text CHECK (is_open(VALUE));"
            + POLICY.format("project_id::open_project IS NOT NULL"),
            ["project"],
        ),
        (
            "CREATE TABLE permit (p text); ALTER TABLE permit ENABLE ROW LEVEL SECURITY;"
            f"CREATE POLICY shown ON permit FOR SELECT USING ({OPEN.format('p')});"
            + POLICY.format("EXISTS (SELECT FROM permit AS t WHERE t.p = project_id)"),
            ["project"],
        ),
    ],
)
def test_only_what_policies_may_read_cuts_uploads_into_sets(
    serve: Serve, policies: str | None, want: list[str]
) -> None:
    """A set is judged at once: to end one at every action would be right, and slow."""
    server = serve(described(APP, given=False, policies=policies))
    tables = "SELECT name FROM synchrotron.rights_tables() WHERE for_policies = %s ORDER BY name"
    assert [name for (name,) in execute(server.database, tables, True)] == want
    assert execute(server.database, tables, False) == [("project_member",)]


@pytest.mark.spec("H6")
@pytest.mark.parametrize(
    "policy",
    [
        """
        CREATE POLICY few ON item FOR INSERT
            WITH CHECK ((SELECT count(*) FROM item AS i WHERE i.project_id = item.project_id) < 2)
        """,
        """
        CREATE FUNCTION items_in(p text) RETURNS bigint STABLE LANGUAGE sql SECURITY DEFINER
            SET search_path = '' BEGIN ATOMIC
                SELECT count(*) FROM public.item AS i WHERE i.project_id = p;
            END;
        CREATE POLICY few ON item FOR INSERT WITH CHECK (items_in(project_id) < 2)
        """,
    ],
    ids=["a subquery", "a security definer"],
)
def test_a_policy_that_reads_its_own_table_is_judged_after_each_action(
    serve: Serve, policy: str
) -> None:
    _, file = alice_in_a_project(serve, policy)
    late = file.action(4, insert("z"))
    answer = file.send(file.action(2, insert("x")), file.action(3, insert("y")), late)
    assert isinstance(answer, Denied), answer
    assert answer.action_id == late.record.id


@pytest.mark.spec("H6", "H7")
def test_memberships_that_a_function_reads_count_before_each_action() -> None:
    """The query of `audiences` may call a function as well."""
    database = new_database()
    execute(
        database,
        "CREATE FUNCTION members_of() RETURNS TABLE (user_id text, audience_key text)"
        " LANGUAGE plpgsql STABLE AS $$ BEGIN"
        " RETURN QUERY SELECT m.user_id, m.audience_key FROM public.project_member AS m; END $$",
    )
    query = "SELECT user_id, audience_key FROM members_of()"
    install(described(APP, given=False)._replace(audiences=query), database)
    server = Served(database, clock=Clock())
    file = File(server, "alice", "a")  # type: ignore[arg-type]
    file.ok(create_project(file, 1, "p1", "alice", "bob"))
    left = file.action(2, RowPatch("project_member", ["p1-alice"], P1, "delete"))
    late = file.action(3, insert("x"))
    answer = file.send(left, late)
    server.close()
    drop_database(database)
    assert isinstance(answer, Denied), answer
    assert answer.action_id == late.record.id


ASKED_OF_A_ROW = {
    "by each statement of its own rows": (
        "CREATE POLICY few ON item AS RESTRICTIVE FOR UPDATE USING (100 / n >= 0)"
    ),
    "alone": (
        "CREATE SEQUENCE asked MINVALUE 0; GRANT ALL ON SEQUENCE asked TO PUBLIC;"
        "CREATE FUNCTION is_alone() RETURNS boolean LANGUAGE plpgsql AS $$"
        " DECLARE this bigint := 1e6 * extract(epoch FROM statement_timestamp());"
        " BEGIN RETURN (SELECT 1 / (last_value <> this)::int FROM public.asked) = 1"
        " AND setval('public.asked', this) = this; END $$;"
        "CREATE POLICY few ON item AS RESTRICTIVE FOR INSERT WITH CHECK (is_alone())"
    ),
    "with all of its columns": (
        "CREATE POLICY few ON item AS RESTRICTIVE FOR UPDATE"
        " USING (jsonb_strip_nulls(to_jsonb(item)) = to_jsonb(item))"
    ),
}


@pytest.mark.spec("H6")
@pytest.mark.parametrize("how", ASKED_OF_A_ROW)
def test_a_write_that_a_policy_allows_is_stored_whatever_it_says_of_others(
    serve: Serve, how: str
) -> None:
    """An error of some writes together is none of theirs, and takes no row along."""
    server, file = alice_in_a_project(serve, ASKED_OF_A_ROW[how])
    file.ok(file.action(2, insert("one", 1, place=1)), file.action(3, insert("zero", 0)))
    file.ok(
        file.action(9, membership("p1-bob", "p1", "bob")),  # after which a new set begins
        file.action(10, insert("x", 1), insert("z", 1)),
        file.action(11, update("one", n=2), delete("zero")),
        file.action(12, insert("y", 1)),
    )
    rows = execute(server.database, "SELECT id, n FROM public.item ORDER BY id")
    assert rows == [("one", 2), ("x", 1), ("y", 1), ("z", 1)]
    members = execute(server.database, "SELECT id FROM public.project_member ORDER BY id")
    assert ("p1-bob",) in members
