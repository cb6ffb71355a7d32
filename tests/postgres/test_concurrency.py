"""Many replicas upload at once, from several processes, to several server processes."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from tests.crashes import ledger
from tests.postgres.cluster import cluster, drop_database, execute, new_database
from tests.postgres.fleet import USERS
from tests.postgres.twin import described

from synchrotron.core.canonical import decode
from synchrotron.core.records import ActionRecord
from synchrotron.testing.oracle import SerialOracle, tables_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
AUDIT = """
    CREATE TABLE audit (seq bigint PRIMARY KEY, items json, sales json);
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        INSERT INTO public.audit SELECT NEW.seq,
            (SELECT coalesce(json_agg(i ORDER BY i.id), '[]') FROM public.item AS i),
            (SELECT coalesce(json_agg(s ORDER BY s.id), '[]') FROM public.sale AS s);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER audit AFTER INSERT ON synchrotron.commits
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit();
"""


@pytest.fixture
def database() -> Iterator[str]:
    url = new_database(described(SimpleNamespace(**vars(ledger.app)), given=True))
    for user in USERS:
        execute(url, "INSERT INTO given_members VALUES (%s, 'all')", user)
    execute(url, "SELECT synchrotron.note_members()")
    yield url
    drop_database(url)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.postgres.fleet", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def open_transactions(database: str) -> Iterator[None]:
    """Transactions that have written and stay open, here and in another database."""
    with psycopg.connect(database) as here, psycopg.connect(cluster()) as there:
        for connection in (here, there):
            connection.execute("CREATE TABLE held (n integer)")
            connection.execute("INSERT INTO held VALUES (1)")
        yield
        here.rollback()
        there.rollback()


@pytest.mark.spec("H2", "H3", "H10")
def test_replicas_that_upload_at_once_all_end_with_every_row(database: str, tmp_path: Path) -> None:
    execute(database, AUDIT)
    sockets = [str(tmp_path / name) for name in ("one", "two")]
    servers = [start("serve", database, path) for path in sockets]
    workers: list[subprocess.Popen[str]] = []
    try:
        assert [line_of(server) for server in servers] == ["ready", "ready"]
        with open_transactions(database):
            workers = [
                start("work", ",".join(sockets), str(tmp_path), str(seed), "4", "8")
                for seed in (0, 4, 8, 12)
            ]
            assert [line_of(worker) for worker in workers] == ["worked"] * 4
        reports = [json.loads(line) for worker in workers for line in rest_of(worker, 4)]
    finally:
        for process in [*servers, *workers]:
            process.kill()
            process.communicate()
    kinds: Counter[str] = Counter()
    for report in reports:
        kinds.update(report["kinds"])
    rounds = max(report["rounds_max"] for report in reports)
    print(f"answers {dict(kinds)}; at most {rounds} rounds in one sync")
    check_everyone_has_every_row(database, tmp_path, reports)
    check_serial_at_every_commit(database)


def rest_of(worker: subprocess.Popen[str], count: int) -> list[str]:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    lines = [line_of(worker) for _ in range(count)]
    assert worker.wait(60) == 0
    return lines


def check_everyone_has_every_row(
    database: str, folder: Path, reports: list[dict[str, Any]]
) -> None:
    want = server_tables(database)
    for path in sorted(folder.glob("*.db")):
        replica = ledger.app.open(path)
        have = tables_of(replica._engine.store)
        replica.close()
        assert {t: [dict(row) for row in rows] for t, rows in have.items()} == want, path
    accepted = {id for (id,) in execute(database, "SELECT id FROM synchrotron.actions")}
    ran = {id for report in reports for id in report["ran"]}
    assert accepted == ran


def server_tables(database: str) -> dict[str, list[dict[str, Any]]]:
    tables = {}
    for table in ("item", "sale"):
        rows = execute(database, f"SELECT to_json(t) FROM public.{table} AS t ORDER BY id")
        tables[table] = [row for (row,) in rows]
    return tables  # type: ignore[return-value]


def check_serial_at_every_commit(database: str) -> None:
    """After each commit, the rows are what the accepted actions give, once each, in order."""
    records = list(stored_records(database))
    oracle = SerialOracle(ledger.app)
    audits = execute(database, "SELECT seq, items, sales FROM audit ORDER BY seq")
    assert len(audits) > 10
    for seq, items, sales in audits:
        serial = oracle.tables(record for s, record in records if s <= seq)  # type: ignore[operator]
        assert [items, sales] == [
            [named(table, row) for row in serial[table]] for table in ("item", "sale")
        ], f"at the commit {seq}"
    oracle.close()


def named(table: str, row: tuple[Any, ...]) -> dict[str, Any]:
    names = [column.name for column in ledger.app.schema.tables[table].all_columns]
    return dict(zip(names, row, strict=True))


def stored_records(database: str) -> Iterator[tuple[int, ActionRecord]]:
    for row in execute(
        database,
        "SELECT seq, id, seed, name, version, args, now, order_key, client_id, user_id, audiences"
        " FROM synchrotron.actions",
    ):
        seq, id, seed, name, version, args, now, key, client, user, audiences = row
        yield (
            seq,
            ActionRecord(  # type: ignore[misc]
                id=id,
                seed=seed,
                name=name,
                version=version,
                args=decode(args),
                now=now,
                order_key=key,
                client_id=client,
                user=user,
                audiences=None if audiences is None else tuple(audiences),
            ),
        )
