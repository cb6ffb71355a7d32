"""A long download comes in pages, bounded by events and by bytes."""

import pytest
from tests.postgres.conftest import Serve
from tests.postgres.twin import described
from tests.testing.by_hand import APP, Clock, File, correct, create_project, ids, insert, row

from synchrotron.core.messages import Download
from synchrotron.server.exchange import Bounds


@pytest.mark.spec("F2a")
def test_a_page_is_bounded_by_bytes_and_has_at_least_one_event(serve: Serve) -> None:
    bounds = Bounds(page_bytes=2000)
    server = serve(described(APP, given=False), clock=Clock(), bounds=bounds)
    a, b = (File(server, "alice", letter) for letter in "ab")  # type: ignore[arg-type]
    a.ok(create_project(a, 1, "p1", "alice"))
    big = "x" * 900
    sent = [
        a.action(10 + n, row("project", f"project:q{n}", id=f"q{n}", name=big)) for n in range(5)
    ]
    sent.append(a.action(50, row("project", "project:huge", id="huge", name=big * 10)))
    sent.append(a.action(51, insert("last")))
    a.ok(*sent)
    # It is told once more, with the seq of its correction.
    again = row("project", "project:q0", id="q0", name="small")
    a.ok(corrections=[correct(sent[0], again)])

    pages: list[Download] = []
    while not pages or pages[-1].more:
        pages.append(b.pull())
    told = [[id.rpartition("-")[2] for id in ids(page.events)] for page in pages]
    assert told == [["1", "2", "3", "4"], ["5", "6"], ["7"], ["2", "8"]]
    assert b.pull().events == []
