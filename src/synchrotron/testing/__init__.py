"""What tests of applications need: a server in the same process, and an oracle.

In reading order: `clients`, `parts`, `undo`, `server_state`, `server_tables`,
`membership`, `downloads`, `proposals`, `rights`, `uploads`, `gate`, `exchanges`,
`memory_server`, `oracle`, `pytest_plugin`.
"""

from synchrotron.testing.memory_server import MemoryServer

__all__ = ["MemoryServer"]
