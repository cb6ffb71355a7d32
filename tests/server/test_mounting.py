"""The server as a part of another ASGI application."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from tests.replica import shop
from tests.replica.shop import create_counter
from tests.server.running import SECRET, Running, ask, token

from synchrotron.errors import UsageError
from synchrotron.server.asgi import asgi
from synchrotron.testing import MemoryServer
from synchrotron.testing.memory_authority import MemoryAuthority


def test_it_can_be_mounted_and_the_rest_of_the_application_goes_on(memory: MemoryServer) -> None:
    sync = asgi(authority=MemoryAuthority(memory), jwt_secret=SECRET)
    closed = []

    @asynccontextmanager
    async def lifespan(_):
        yield
        await sync.close()
        closed.append(True)

    async def home(_):
        return PlainTextResponse("home")

    app = Starlette(routes=[Route("/", home), Mount("/sync", sync)], lifespan=lifespan)
    app.end_streams = sync.end_streams
    with Running(app) as served:
        assert ask(served.url + "/")[2] == b"home"
        assert ask(served.url + "/sync/health")[0] == 200
        with shop.app.open(":memory:", server=served.url + "/sync", token=token("alice")) as a:
            run = a.run(create_counter, id="x")
            a.sync()
            assert run.outcome.state == "accepted"
    assert closed == [True]


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNCHROTRON_DATABASE_URL", raising=False)
    with pytest.raises(UsageError, match="SYNCHROTRON_DATABASE_URL"):
        asgi(jwt_secret=SECRET)
    with pytest.raises(UsageError, match="SYNCHROTRON_JWT_SECRET"):
        asgi(authority=MemoryAuthority(MemoryServer(shop.app)))


def test_the_server_is_made_by_the_name_that_the_documents_give() -> None:
    import synchrotron.server
    from synchrotron.server import asgi as documented

    for make in (documented, synchrotron.server.asgi):
        with pytest.raises(UsageError, match="which tokens to accept"):
            make(authority=MemoryAuthority(MemoryServer(shop.app)))
    with pytest.raises(AttributeError, match="no attribute 'agsi'"):
        synchrotron.server.agsi  # type: ignore[attr-defined]  # noqa: B018
