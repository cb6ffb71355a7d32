"""What every test shares: how much hypothesis tries, and what a failure needs to be repeated.

SYNCHROTRON_EXAMPLES   how many examples each property and random history gets; 100 if unset
SYNCHROTRON_SEED       where all randomness starts; drawn afresh if unset, printed at the top
"""

import os
import secrets
import signal
from importlib.metadata import version

import apsw
import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]
EXAMPLES = int(os.environ.get("SYNCHROTRON_EXAMPLES", "100"))
# Through the environment, so that the workers of pytest-xdist start where their parent did.
SEED = int(os.environ.setdefault("SYNCHROTRON_SEED", str(secrets.randbelow(2**32))))

settings.register_profile(
    "synchrotron",
    max_examples=EXAMPLES,
    deadline=None,  # a busy machine is no failure
    suppress_health_check=[HealthCheck.too_slow],  # an example opens real databases
    print_blob=True,
)
settings.load_profile("synchrotron")


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads the option
def pytest_configure(config: pytest.Config) -> None:
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = SEED
    # What a shell runs in the background ignores Ctrl-C, and so would all programs that are
    # started and interrupted here.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header(config: pytest.Config) -> list[str]:
    packages = " ".join(f"{name}-{version(name)}" for name in ("apsw", "msgspec", "hypothesis"))
    return [
        f"SQLite {apsw.sqlite_lib_version()}, {packages}",
        f"SYNCHROTRON_SEED={config.option.hypothesis_seed} SYNCHROTRON_EXAMPLES={EXAMPLES}",
    ]
