"""The data set: the same for the same size, on every machine.

What is alike in real trackers is alike here: a few people write most, most issues are closed, some
have many comments, titles share words.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

from issues.app import NewIssue, create_project, import_issues, save_draft, take_desk
from synchrotron import Replica

PROJECTS = 10
BATCH = 200
"""Issues in one action."""
AUTHORS = ("alice", "bob", *(f"author{i:02}" for i in range(40)))
LABELS = ("bug", "idea", "question", "docs", "speed", "ui", "security", "good first issue")
SUBJECTS = ("The window", "Login", "Sync", "The export", "Search", "A long list", "The menu")
TROUBLES = ("crashes", "is slow", "shows nothing", "forgets its size", "flickers", "is too small")
WHEN = ("at the start", "after an update", "on a train", "with many rows", "in the dark", "twice")
WORDS = ("it", "every", "then", "when", "row", "sync", "list", "save", "open", "close", "wait")


class Size(NamedTuple):
    """How much there is."""

    projects: int
    issues: int
    comments: int
    labels: int
    drafts: int


def projects(count: int = PROJECTS) -> list[str]:
    return [f"project-{i:02}" for i in range(count)]


def members(project: int) -> list[str]:
    """Bob is in every other project; who fills the data set is in all of them."""
    return ["bob"] if project % 2 == 0 else []


def issues(count: int, seed: int = 0) -> Iterator[NewIssue]:
    """So many issues, one after another."""
    rng = Random(seed)
    for _ in range(count):
        yield an_issue(rng)


def an_issue(rng: Random) -> NewIssue:
    return NewIssue(
        title=f"{rng.choice(SUBJECTS)} {rng.choice(TROUBLES)} {rng.choice(WHEN)}",
        body=sentence(rng, 30),
        author=an_author(rng),
        labels=sorted(rng.sample(LABELS, rng.choice((0, 1, 1, 2, 3)))),
        comments=[(an_author(rng), sentence(rng, 12)) for _ in range(comment_count(rng))],
        closed_by=an_author(rng) if rng.random() < 0.7 else None,
    )


def an_author(rng: Random) -> str:
    return AUTHORS[int(len(AUTHORS) * rng.random() ** 3)]


def comment_count(rng: Random) -> int:
    return int(8 * rng.random() ** 3) + int(rng.random() < 0.02) * 30


def sentence(rng: Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)).capitalize() + "."


def batches(all_issues: Iterator[NewIssue]) -> Iterator[list[NewIssue]]:
    while batch := list(islice(all_issues, BATCH)):
        yield batch


def fill(replica: Replica, count: int, *, user: str, seed: int = 0) -> Size:
    """Run all of it on a replica of this user, spread over the projects; how much it is."""
    names = projects()
    replica.run(take_desk, user=user)
    for position, project in enumerate(names):
        replica.run(
            create_project,
            project_id=project,
            name=project.replace("-", " ").title(),
            members=members(position),
            labels=list(LABELS),
        )
    comments = labels = 0
    for position, batch in enumerate(batches(issues(count, seed))):
        replica.run(import_issues, project_id=names[position % len(names)], issues=batch)
        comments += sum(len(issue.comments) for issue in batch)
        labels += sum(len(issue.labels) for issue in batch)
    drafts = count // 1000 + 1
    for draft in range(drafts):
        replica.run(save_draft, owner=user, title=f"Draft {draft}", body="Not yet for others.")
    return Size(len(names), count, comments, labels, drafts)
