"""New rows are inserted by the acting user, and what that cannot judge is judged as ever (H6)."""

from __future__ import annotations

import pytest
from tests.postgres.bridge import Served
from tests.postgres.cluster import execute
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.testing.by_hand import (
    APP,
    P2,
    Clock,
    File,
    create_project,
    delete,
    insert,
    update,
)

from synchrotron.core.messages import Denied, Invalid, RowPatch, SentAction
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
