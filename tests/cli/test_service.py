"""The commands that run a server, as an operator runs them."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.cli.test_demo import command, spoken
from tests.postgres.cluster import drop_database, new_database
from tests.postgres.twin import described
from tests.replica import shop
from tests.replica.shop import create_project, create_todo, invite
from tests.server.running import SECRET, ask, free_port

from synchrotron.cli import command as commands
from synchrotron.client.token import user_of
from synchrotron.server.settings import PREFIX, Options, Settings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def database() -> Iterator[str]:
    url = new_database(described(SimpleNamespace(**vars(shop.app)), given=False))
    yield url
    drop_database(url)


@contextmanager
def running_command(
    *args: str, port: int, cwd: Path = ROOT, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """The command, once it answers; it is asked to stop at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "synchrotron", *args],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
    )
    try:
        deadline_s = time.monotonic() + 60
        while True:
            try:
                assert ask(f"http://127.0.0.1:{port}/health")[0] == 200
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_serve_serves_a_database_by_the_environment_and_ends_when_it_is_asked_to(
    database: str,
) -> None:
    port = free_port()
    environment = {
        "SYNCHROTRON_DATABASE_URL": database,
        "SYNCHROTRON_JWT_SECRET": SECRET,
        "SYNCHROTRON_PORT": str(port),
        "SYNCHROTRON_LOG_JSON": "1",
    }
    made = command("token", "--user", "alice", "--days", "0.5", SYNCHROTRON_JWT_SECRET=SECRET)
    alice = made.stdout.strip()
    assert user_of(alice) == "alice" and made.stdout == alice + "\n"
    with running_command("serve", port=port, **environment) as process:
        with (
            shop.app.open(":memory:", server=f"http://127.0.0.1:{port}", token=alice) as a,
            a.syncing(),
        ):
            assert a.run(create_project, id="p").wait(30).state == "accepted"
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert '"route":"/v1/sync","status":200' in log


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ((), "which database"),
        (("--database", "postgresql://nobody@127.0.0.1:1/none"), "cannot be reached"),
        (("--database", "x", "--jwt-secret", "short"), "less than 32 bytes"),
        (("--database", "x", "--actions-max", "0"), "above 0"),
    ],
)
def test_serve_says_what_is_in_the_way_and_ends_with_1(
    options: tuple[str, ...], cause: str
) -> None:
    done = command("serve", *options, SYNCHROTRON_JWT_SECRET=SECRET)
    assert (done.returncode, cause in spoken(done.stdout)) == (1, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_serve_needs_to_know_which_tokens_to_accept() -> None:
    done = command("serve", "--database", "x", SYNCHROTRON_JWT_SECRET="")
    assert (done.returncode, "which tokens to accept" in spoken(done.stdout)) == (1, True)


def test_every_setting_is_an_option_of_serve_and_an_environment_variable() -> None:
    options = inspect.signature(commands.serve).parameters
    names = set(Settings.__struct_fields__)
    assert names == set(Options.__annotations__)
    assert names <= options.keys()
    for name in {*names, "database"}:
        annotation = str(options[name].annotation)
        variable = PREFIX + ("DATABASE_URL" if name == "database" else name.upper())
        assert f'"{variable}"' in annotation.replace("'", '"'), name


def test_token_needs_the_secret() -> None:
    for secret in ("", "short"):
        done = command("token", "--user", "alice", SYNCHROTRON_JWT_SECRET=secret)
        assert (done.returncode, "SYNCHROTRON_JWT_SECRET" in spoken(done.stderr)) == (1, True)
        assert done.stdout == "", "a shell would take it for a token"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_dev_installs_serves_and_gives_tokens_that_outlive_a_restart(tmp_path: Path) -> None:
    from tests.postgres.cluster import cluster

    url = new_database()
    assert cluster()
    port = free_port()
    told = []
    for _ in range(2):
        with running_command(
            "dev", "tests.replica.shop:app", "--database", url, "--port", str(port), port=port,
            TMPDIR=str(tmp_path),
        ) as process:  # fmt: skip
            process.send_signal(signal.SIGINT)
            told.append(process.communicate(timeout=30)[0])
        assert process.returncode == 0, told
    tokens = [dict(re.findall(r"token +of (\w+): (\S+)", out)) for out in told]
    assert tokens[0].keys() == {"alice", "bob"}
    made = command(
        "token", "--dev", "tests.replica.shop:app", "--user", "carol", TMPDIR=str(tmp_path)
    )
    assert user_of(made.stdout.strip()) == "carol"
    [secret] = tmp_path.glob("synchrotron-dev-*/jwt-secret")
    tokens[0]["carol"] = made.stdout.strip()
    assert "shop: " in told[0] and f"http://127.0.0.1:{port}" in told[0]
    with running_command(
        "dev", "tests.replica.shop:app", "--database", url, "--port", str(port), port=port,
        TMPDIR=str(tmp_path),
    ):  # fmt: skip
        server = f"http://127.0.0.1:{port}"
        with (
            shop.app.open(":memory:", server=server, token=tokens[0]["alice"]) as a,
            shop.app.open(":memory:", server=server, token=tokens[0]["bob"]) as b,
            shop.app.open(":memory:", server=server, token=tokens[0]["carol"]) as c,
        ):
            a.run(create_project, id="p")
            a.sync()
            a.run(invite, project="p", user="bob")
            a.run(create_todo, project="p", text="Buy milk")
            a.sync()
            b.sync()
            assert [row["text"] for row in b.query("SELECT text FROM todo")] == ["Buy milk"]
            c.sync()
            assert c.query("SELECT text FROM todo") == []
    assert secret.stat().st_mode & 0o077 == 0
    drop_database(url)


def test_a_token_for_a_server_that_dev_never_started_says_to_start_it(tmp_path: Path) -> None:
    done = command(
        "token", "--dev", "tests.replica.shop:app", "--user", "carol", TMPDIR=str(tmp_path)
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "start it first" in spoken(done.stderr)


def test_dev_says_what_is_in_the_way() -> None:
    done = command("dev", "tests.replica.shop:nothing", "--database", "x")
    assert (done.returncode, "nothing" in done.stdout) == (1, True)
