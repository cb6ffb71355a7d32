"""Nothing is lost, whoever dies: a short run of `deaths`.

SYNCHROTRON_DEATHS says how many die; the suite takes few. `make crashes FLEET=60` goes on for
a minute.
"""

import os
import random
from itertools import count
from pathlib import Path

import pytest
from tests.postgres.deaths import check, site_in, work_and_die

pytestmark = pytest.mark.slow

DEATHS = int(os.environ.get("SYNCHROTRON_DEATHS", "4"))
SEED = int(os.environ["SYNCHROTRON_SEED"])


@pytest.mark.spec("O5", "O6", "H2", "H10")
def test_nothing_is_lost_or_done_twice_whoever_dies(tmp_path: Path) -> None:
    deaths = count()
    with site_in(tmp_path) as site:
        work_and_die(site, random.Random(SEED), lambda: next(deaths) < DEATHS)
        assert check(site) > 0
        assert sum(site.deaths.values()) == DEATHS
