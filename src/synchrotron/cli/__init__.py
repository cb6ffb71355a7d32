"""The command line.

In reading order: `market`, `story`, `stage`, `verdict`, `demo`, `simulate`, `install`,
`embedded`, `service`, `command`.
"""

from synchrotron.cli.command import main

__all__ = ["main"]
