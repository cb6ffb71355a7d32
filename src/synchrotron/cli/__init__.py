"""The command line.

In reading order: `market`, `story`, `stage`, `verdict`, `demo`, `install`,
`embedded`, `service`, `command`.
"""

from synchrotron.cli.command import main

__all__ = ["main"]
