"""Every error that Synchrotron raises, grouped by who must act.

    SynchrotronError
    ├── DefinitionError          the author of the application: mend the schema or the action
    │   ├── SchemaError
    │   └── ActionDefinitionError
    ├── UsageError               the caller: the call is wrong and changed nothing
    │   ├── ArgumentError
    │   ├── UnknownAction
    │   ├── UnknownOutcome
    │   ├── CannotUndo
    │   ├── WriteOutsideAction
    │   ├── NotReadOnly
    │   ├── QueryError
    │   ├── Closed
    │   └── EncryptionMissing
    ├── RefusedInAction          the action, as written, may not do this; it was rolled back
    │   ├── StatementRefused
    │   ├── LocalTableRefused
    │   ├── ValueRefused
    │   ├── KeyRefused
    │   ├── AudienceRefused
    │   ├── ImpureAction
    │   └── ConstraintError
    │       └── ForeignKeyError
    ├── FileError                whoever looks after the database file
    │   ├── NotAReplica
    │   ├── DamagedFile
    │   ├── WrongKey
    │   ├── NewerFile
    │   ├── OtherApplication
    │   └── WrongUser
    ├── MachineError             the machine: disk, memory, locks; nothing was changed, try again
    ├── ServerError              whoever runs the server
    │   └── InstallationError
    └── SyncError                the network or the server; everything stays queued
        ├── Offline
        ├── Unauthorized
        ├── ProtocolError
        └── Blocked

`RefusedInAction` may also be raised when an action is replayed. It is then the
application's history that refuses (A7): the action has no effect at that place.
A `MachineError` never becomes part of history.

`DeterminismWarning` is a warning, not an error: what it tells of may well be harmless.
"""

from __future__ import annotations


class SynchrotronError(Exception):
    """The root of all errors raised by this package."""


class DefinitionError(SynchrotronError):
    """The application is defined in a way that could not be kept in sync."""


class SchemaError(DefinitionError):
    """A table, column, constraint or local object of the schema is refused."""


class ActionDefinitionError(DefinitionError):
    """A function cannot be an action as it is written."""


class UsageError(SynchrotronError):
    """A call that cannot be carried out; nothing was changed by it."""


class ArgumentError(UsageError):
    """Arguments that do not fit an action's signature."""


class UnknownAction(UsageError):
    """Something was run that is not an action of this application."""


class UnknownOutcome(UsageError):
    """No action with this id is known to this replica as its own."""


class CannotUndo(UsageError):
    """An action that cannot be undone by `undo`; the message says why, and what to do."""


class WriteOutsideAction(UsageError):
    """Data was to be changed outside an action (A2)."""


class NotReadOnly(UsageError):
    """A statement that does more than read was given to `query`."""


class QueryError(UsageError):
    """A query that SQLite cannot run, or whose rows do not fit the type asked for."""


class Closed(UsageError):
    """The replica was used after `close()`."""


class EncryptionMissing(UsageError):
    """A key was given, and the installed SQLite cannot encrypt."""


class RefusedInAction(SynchrotronError):
    """An action did what no action may do. It was rolled back as a whole."""


class StatementRefused(RefusedInAction):
    """A statement that actions cannot use: schema changes, transactions, several at once."""


class LocalTableRefused(RefusedInAction):
    """An action's own statement read or wrote a local table, which replicas do not share."""


class ValueRefused(RefusedInAction):
    """A value that is not in its column's form."""


class KeyRefused(RefusedInAction):
    """A primary key that was left out or NULL where it cannot be made."""


class AudienceRefused(RefusedInAction):
    """A row moved between audiences (A11), or lies outside those its action declares (A10)."""


class ImpureAction(RefusedInAction):
    """In strict mode: an action rests on more than its record and the rows (A3)."""


class ConstraintError(RefusedInAction):
    """A constraint of the schema was violated."""


class ForeignKeyError(ConstraintError):
    """A foreign key points to no row at the end of the action (A9)."""


class FileError(SynchrotronError):
    """A database file that cannot be opened as this replica. It was not changed."""


class NotAReplica(FileError):
    """The file is a database, but not one of Synchrotron's."""


class DamagedFile(FileError):
    """The file is not a database, or is truncated or corrupt."""


class WrongKey(FileError):
    """The file is encrypted, and not with this key; or it is damaged, which looks the same."""


class NewerFile(FileError):
    """The file was written by a newer version of the application or of Synchrotron."""


class OtherApplication(FileError):
    """The file belongs to another application, or its tables differ from the schema."""


class WrongUser(FileError):
    """The file belongs to another user (a file has one user for all its life)."""


class MachineError(SynchrotronError):
    """The machine failed: disk full, I/O, memory, a lock. The transaction was rolled back."""


class ServerError(SynchrotronError):
    """The server cannot work on this database as it is; the message says what to do."""


class InstallationError(ServerError):
    """An application cannot be installed into a database or served from it; nothing was changed."""


class SyncError(SynchrotronError):
    """An exchange with the server failed. Pending actions stay queued."""


class Offline(SyncError):
    """The server could not be reached, or no answer came."""


class Unauthorized(SyncError):
    """The server refused the token. Nothing is parked; the queue waits for a new one."""


class ProtocolError(SyncError):
    """A message that the protocol does not allow."""


class Blocked(SyncError):
    """Syncing cannot go on before someone acts; the message says who and how."""


class DeterminismWarning(UserWarning):
    """In strict mode: an action that another machine, or a later version, may replay otherwise."""
