"""The command line.

In reading order: `market`, `story`, `actor`, `stage`, `verdict`, `demo`, `simulate`,
`install`, `embedded`, `backstage`, `service`, `inspect`, `bench`, `command`.
"""

from synchrotron.cli.command import main

__all__ = ["main"]
