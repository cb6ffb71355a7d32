"""The gate is decided under the counter's lock, by what was committed until then."""

import asyncio
import time
from types import SimpleNamespace

import psycopg
import pytest
from tests.postgres.cluster import drop_database, execute, new_database
from tests.postgres.twin import described
from tests.testing.by_hand import APP, P1, P2, File, insert

from synchrotron.server.postgres import PostgresAuthority

WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.mark.spec("H2", "H3")
def test_of_two_uploads_that_wait_for_the_counter_the_second_is_behind() -> None:
    """They write in different audiences, which both users see: nothing else holds them apart."""
    database = new_database(described(APP, given=True))
    for user in ("alice", "bob"):
        for audience in (P1, P2):
            execute(database, "INSERT INTO given_members VALUES (%s, %s)", user, audience)
    execute(database, "SELECT synchrotron.note_members()")
    nobody = SimpleNamespace(connect=lambda user: None)
    a, b = File(nobody, "alice", "a"), File(nobody, "bob", "b")  # type: ignore[arg-type]
    now_ms = time.time_ns() // 1_000_000 - a_moment_ago(a)

    async def both() -> list[str]:
        async with PostgresAuthority(database) as authority:
            with psycopg.connect(database) as holder:
                holder.execute("SELECT FROM synchrotron.counter FOR UPDATE")
                tasks = [
                    asyncio.create_task(authority.sync(file.user, file.request(sent)))
                    for file, sent in (
                        (a, a.action(now_ms, insert("x", in_=P1))),
                        (b, b.action(now_ms, insert("y", in_=P2))),
                    )
                ]
                while execute(database, WAITING) != [(2,)]:
                    await asyncio.sleep(0.02)
                holder.rollback()
            return sorted([type(answer).__name__ for answer in await asyncio.gather(*tasks)])

    try:
        assert asyncio.run(asyncio.wait_for(both(), 60)) == ["Behind", "Ok"]
    finally:
        drop_database(database)


def a_moment_ago(file: File) -> int:
    """What to take from the present, so that `file.key` of it lies a second back."""
    return int(file.key(0)[:12], 16) + 1000
