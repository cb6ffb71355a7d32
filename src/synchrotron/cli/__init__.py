"""The command line.

In reading order: `market`, `story`, `actor`, `stage`, `verdict`, `demo`, `simulate`,
`install`, `embedded`, `backstage`, `service`, `command`.
"""

from synchrotron.cli.command import main

__all__ = ["main"]
