"""Random histories, in which PostgreSQL has to answer as MemoryServer does."""

import os

import pytest
from tests.postgres.histories import play

SEED = int(os.environ["SYNCHROTRON_SEED"])


@pytest.mark.spec("S7", "S8", "H10")
@pytest.mark.parametrize("number", range(2))
def test_postgresql_answers_every_request_of_a_history_as_memory_server_does(number: int) -> None:
    assert play(SEED + number, steps=60) > 0  # in some histories most requests are lost
