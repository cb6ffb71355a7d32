"""Random histories that try to break the rules, and tell how.

In reading order: `dice`, `climate`, `steps`, `network`, `device`, `sampling`, `story`,
`violation`, `audit`, `checks`, `session`, `world`, `shrink`, `simulation`, `warehouse`,
`trial`, `many`.
"""

from synchrotron.testing.simulation.simulation import Result, Simulation, SimulationFailed
from synchrotron.testing.simulation.trial import Trial

__all__ = ["Result", "Simulation", "SimulationFailed", "Trial"]
