"""What tests of applications need: a server in the same process, an oracle, a simulator.

In reading order: `undo`, `server_state`, `server_tables`, `membership`,
`downloads`, `proposals`, `rights`, `uploads`, `gate`, `exchanges`, `memory_server`,
`memory_authority`, `oracle`, `purity`, `simulation`, `pytest_plugin`.
"""

from synchrotron.testing.memory_server import MemoryServer
from synchrotron.testing.purity import Impure, check_purity
from synchrotron.testing.simulation import Simulation, SimulationFailed

__all__ = ["Impure", "MemoryServer", "Simulation", "SimulationFailed", "check_purity"]
