"""The tracker with a small data set: who sees what, what happens offline, and that it measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from issues.app import (
    AlreadyClosed,
    add_comment,
    add_label,
    app,
    close_issue,
    create_project,
    import_issues,
    open_issue,
    publish_draft,
    save_draft,
    take_desk,
)
from issues.data import LABELS, Size, fill, issues, projects
from issues.measure import in_process, measure

from synchrotron import Replica, Row
from synchrotron.testing import MemoryServer, Simulation
from synchrotron.testing.pytest_plugin import OpenReplica

SMALL = 60
SHARED, HERS = projects()[0], projects()[1]
Query = Callable[..., Sequence[Row]]


@pytest.fixture
def alice(open_replica: OpenReplica) -> Replica:
    """She has a shared project and one of her own, and a draft."""
    alice = open_replica("alice")
    alice.run(take_desk, user="alice")
    for project, members in ((SHARED, ["bob"]), (HERS, [])):
        alice.run(
            create_project, project_id=project, name=project, members=members, labels=list(LABELS)
        )
    alice.sync()
    return alice


@pytest.fixture
def bob(open_replica: OpenReplica, alice: Replica) -> Replica:
    bob = open_replica("bob")
    bob.sync()
    return bob


def settle(*replicas: Replica) -> None:
    for _ in range(2):
        for replica in replicas:
            replica.sync()


def numbers(replica: Replica) -> dict[str, int]:
    return {row["title"]: row["number"] for row in replica.query("SELECT title, number FROM issue")}


def test_the_data_set_is_the_same_each_time() -> None:
    once, again = ([*issues(SMALL)] for _ in range(2))
    assert once == again
    assert once != [*issues(SMALL, seed=1)]


def test_each_user_holds_the_projects_that_they_are_in_and_nobody_elses_drafts(
    open_replica: OpenReplica, memory_server: MemoryServer
) -> None:
    alice = open_replica("alice")
    assert fill(alice, 300, user="alice") == Size(10, 300, 591, 437, 1)
    alice.sync()
    bob = open_replica("bob")
    bob.sync()
    in_reach = {row["project_id"] for row in bob.query("SELECT project_id FROM issue")}
    assert in_reach == {"project-00"}  # the other batch is in one that he is not in
    assert bob.query("SELECT * FROM draft") == []
    assert len(memory_server.rows("draft")) == len(alice.query("SELECT * FROM draft")) == 1


def test_a_published_draft_leaves_its_owners_desk_and_reaches_the_project(
    alice: Replica, bob: Replica
) -> None:
    draft = alice.run(save_draft, owner="alice", title="It flickers", body="Always.").result
    settle(alice, bob)
    assert bob.query("SELECT * FROM issue") == []
    alice.run(
        publish_draft,
        owner="alice",
        project_id=SHARED,
        draft=draft,
        title="It flickers",
        body="Always.",
    )
    settle(alice, bob)
    assert numbers(bob) == {"It flickers": 1}
    assert alice.query("SELECT * FROM draft") == []


def test_issues_that_are_opened_offline_get_one_number_each(alice: Replica, bob: Replica) -> None:
    bob.run(open_issue, project_id=SHARED, title="first")
    alice.run(open_issue, project_id=SHARED, title="second")
    assert numbers(alice) == {"second": 1}
    settle(alice, bob)
    assert numbers(alice) == numbers(bob) == {"first": 1, "second": 2}


def test_who_closes_an_issue_second_is_told_who_was_first(alice: Replica, bob: Replica) -> None:
    issue = alice.run(open_issue, project_id=SHARED, title="It is slow").result
    settle(alice, bob)
    bob.run(close_issue, project_id=SHARED, issue=issue)
    late = alice.run(close_issue, project_id=SHARED, issue=issue)
    settle(alice, bob)
    assert late.outcome.detail == "AlreadyClosed: bob has closed it already"
    with pytest.raises(AlreadyClosed):
        alice.run(close_issue, project_id=SHARED, issue=issue)


def test_the_search_finds_what_others_wrote(alice: Replica, bob: Replica) -> None:
    alice.run(open_issue, project_id=SHARED, title="The window flickers", body="on a train")
    alice.run(open_issue, project_id=HERS, title="The menu flickers", body="on a train")
    settle(alice, bob)
    found = bob.query("SELECT title FROM issue_text WHERE issue_text MATCH 'flickers'")
    assert [row["title"] for row in found] == ["The window flickers"]


def test_all_figures_are_measured(tmp_path: Path) -> None:
    with in_process(tmp_path) as open_one:
        figures = [*measure(open_one, tmp_path, SMALL, turns=2)]
    assert len(figures) == 12
    assert all(figure.measured for figure in figures)
    assert ", 0 closed by the other" not in figures[-2].measured


# ---- random histories ----------------------------------------------------------------------


def a_project(rng: Random, query: Query) -> dict[str, Any] | None:
    rows = query("SELECT id FROM project ORDER BY id")
    return {"project_id": rng.choice(rows)["id"]} if rows else None


def of_an_issue(rng: Random, query: Query) -> dict[str, Any] | None:
    rows = query("SELECT id, project_id FROM issue ORDER BY id")
    if not rows:
        return None
    row = rng.choice(rows)
    return {"project_id": row["project_id"], "issue": row["id"]}


@take_desk.sample
def _(rng: Random, query: Query) -> dict[str, Any]:
    return {"user": "ann"}


@create_project.sample
def _(rng: Random, query: Query) -> dict[str, Any]:
    return {"project_id": rng.choice("pq"), "name": "a project", "members": [], "labels": ["bug"]}


@import_issues.sample
def _(rng: Random, query: Query) -> dict[str, Any] | None:
    found = a_project(rng, query)
    return found and {**found, "issues": [*issues(2, seed=rng.randint(0, 99))][:1]}


@open_issue.sample
def _(rng: Random, query: Query) -> dict[str, Any] | None:
    found = a_project(rng, query)
    return found and {**found, "title": rng.choice(("one", "other"))}


@add_comment.sample
def _(rng: Random, query: Query) -> dict[str, Any] | None:
    found = of_an_issue(rng, query)
    return found and {**found, "text": "me too"}


@add_label.sample
def _(rng: Random, query: Query) -> dict[str, Any] | None:
    found = of_an_issue(rng, query)
    return found and {**found, "label": "bug"}


@close_issue.sample
def _(rng: Random, query: Query) -> dict[str, Any] | None:
    return of_an_issue(rng, query)


@save_draft.sample
def _(rng: Random, query: Query) -> dict[str, Any]:
    return {"owner": "ann", "title": "a draft", "body": ""}


@publish_draft.sample
def _(rng: Random, query: Query) -> dict[str, Any] | None:
    found, drafts = a_project(rng, query), query("SELECT id FROM draft ORDER BY id")
    if found is None or not drafts:
        return None
    draft = rng.choice(drafts)["id"]
    return {**found, "owner": "ann", "draft": draft, "title": "a draft", "body": ""}


@pytest.mark.parametrize("seed", range(2))
def test_in_random_histories_all_agree(seed: int) -> None:
    mine = {"ann": {"user:ann", "project:p", "project:q"}}
    Simulation(app, seed=seed, users=("ann",), audiences=mine).run()
