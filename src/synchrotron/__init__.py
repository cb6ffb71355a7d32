"""Synchrotron: offline-first sync by replaying actions.

An application keeps its data in a local SQL database and changes it only in *actions*:
deterministic functions that are recorded with their arguments. Each record has a place in
one global order, by a hybrid logical clock. A replica runs actions at once, offline or
not, and captures what each did to which rows. When it meets the server it uploads the
records with these patches, and takes in those of others. Where a new action sorts before
ones it has, it undoes everything from there on and replays all actions in order, through
the application's own code. What comes out otherwise than the server knows it is sent as a
correction, which replaces a patch in place. The server folds the patches of each row in
order, and lets nobody see or write rows outside their audiences. Once all have synced,
everyone holds what running all actions once, in order, gives.
"""

from synchrotron.app.action import Action
from synchrotron.app.context import Context
from synchrotron.app.row import Row
from synchrotron.app.undo import Undone
from synchrotron.application import App
from synchrotron.core.records import ActionRecord
from synchrotron.replica.events import SyncReport
from synchrotron.replica.live import Live
from synchrotron.replica.outcomes import Outcome
from synchrotron.replica.replica import Replica, Run

__all__ = [
    "Action",
    "ActionRecord",
    "App",
    "Context",
    "Live",
    "Outcome",
    "Replica",
    "Row",
    "Run",
    "SyncReport",
    "Undone",
]
