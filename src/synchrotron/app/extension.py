"""Extensions: what stands on packages that not everyone installs.

They are found by name when something first needs them, so that nobody else imports
them, or what they stand on.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from synchrotron.errors import UsageError


def sqlalchemy_extension() -> Any:
    """`synchrotron.ext.sqlalchemy`. Raises `UsageError` where SQLAlchemy is not installed."""
    try:
        return import_module("synchrotron.ext.sqlalchemy")
    except ModuleNotFoundError as error:
        if error.name != "sqlalchemy":
            raise
        raise UsageError(
            "this needs SQLAlchemy 2: pip install 'pysynchrotron[sqlalchemy]'; "
            "without it a schema and each statement are SQL, as a str"
        ) from error
