"""Syncing in the background: when to exchange.

One thread, one exchange at a time. It is woken by own runs and by the server's events, and
looks by itself now and then where events fail. However many wake it meanwhile, one sync
serves them all.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from types import TracebackType

from synchrotron.core.ids import Seq
from synchrotron.errors import (
    Blocked,
    Closed,
    FileError,
    Offline,
    SynchrotronError,
    UsageError,
)
from synchrotron.replica.backoff import Backoff
from synchrotron.replica.bell import Bell
from synchrotron.replica.events import logger
from synchrotron.replica.live import LOOK_S
from synchrotron.replica.syncing import Syncing
from synchrotron.replica.transport import Cancels, Listens, Transport
from synchrotron.store.turn import Turn

POLL_S = 30.0
"""How often to look where events fail."""
CALM_S = 600.0
"""And where they do not: an event may get lost on its way."""
TURN_S = 0.25
"""How often to ask for the turn, while another process has it."""
WAITING_S = 1.0
"""How soon to ask again where something waits, such as for the server's clock (O4)."""
GATHER_S = 0.01
"""Runs that follow each other closely go together."""


class Background:
    """A context, also an async one, in which a replica is kept in step."""

    def __init__(
        self,
        syncing: Syncing,
        transport: Transport,
        cursor: Callable[[], Seq],
        turn: Turn,
        has_run_elsewhere: Callable[[], bool] | None,
        *,
        poll_s: float = POLL_S,
        dice: random.Random | None = None,
    ) -> None:
        self._syncing = syncing
        self._transport = transport
        self._cursor = cursor
        self._turn = turn
        self._has_run_elsewhere = has_run_elsewhere
        self._poll_s = poll_s
        self._backoff = Backoff(dice or random.Random(), last_s=max(2 * poll_s, 1.0))
        self._bell = Bell()
        self._lock = threading.Lock()
        self._wanted = True
        self._patient = False
        """True while the server cannot be reached: own runs do not hurry it then."""
        self._hears = False
        self._heard: Seq | None = None
        """The newest horizon that was told, and not yet looked at."""
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._stop_listening: Callable[[], None] = lambda: None

    # ---- beginning and end ----------------------------------------------------------

    def start(self) -> None:
        """Begin. Raises `UsageError` the second time."""
        if self._thread is not None:
            raise UsageError("this was begun already: ask the replica for another one")
        self._thread = threading.Thread(target=self._work, name="synchrotron sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End: an exchange that is under way is given up, which does no harm (M3)."""
        self._stopped = True
        self._bell.ring()
        self._stop_listening()
        if self._thread is None or self._thread is threading.current_thread():
            return
        while self._thread.is_alive():
            if isinstance(self._transport, Cancels):
                self._transport.cancel()
            self._thread.join(0.1)

    @property
    def ended(self) -> bool:
        """Whether it was begun and stopped."""
        return self._stopped

    def __enter__(self) -> Background:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Background:
        self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import asyncio  # not before it is needed: a replica alone does without

        await asyncio.to_thread(self.stop)

    # ---- who wakes it ---------------------------------------------------------------

    def ran(self) -> None:
        """An action was run here."""
        self._wanted = True
        if not self._patient:
            self._bell.ring()

    def _news(self, horizon: Seq) -> None:
        """Something was committed."""
        with self._lock:
            self._heard = horizon
        self._patient = False
        self._bell.ring()

    def _connected(self, hears: bool) -> None:
        self._hears = hears
        if hears and self._patient:  # the server is there again
            self._patient, self._wanted = False, True
        self._bell.ring()

    # ---- the thread -----------------------------------------------------------------

    def _work(self) -> None:
        if isinstance(self._transport, Listens):
            self._stop_listening = self._transport.listen(self._news, self._connected)
        while not self._stopped:
            if not self._turn.take():
                self._wait_for_turn()
                continue
            self._wanted = False
            pause_s = self._sync()
            self._sleep(pause_s)
        self._turn.give_up()
        self._stop_listening()

    def _wait_for_turn(self) -> None:
        """Another process syncs. It sees by itself what is run here."""
        self._bell.wait(lambda: self._stopped, TURN_S)

    def _sync(self) -> float | None:
        """Sync once; after a failure, how long to wait before the next."""
        try:
            self._syncing.sync()
        except Offline:
            self._patient = self._wanted = True
        except Blocked:
            return self._poll_s  # someone has to act; a run or an event may change it as well
        except (FileError, Closed) as error:
            logger.error("syncing ends: %s", error)
            self._stopped = True
        except SynchrotronError as error:
            self._patient = self._wanted = True
            logger.warning("syncing failed, and is tried again: %s", error)
        except Exception:
            self._patient = self._wanted = True
            logger.exception("syncing failed, and is tried again")
        else:
            self._backoff.reset()
            return None if self._syncing.state == "in step" else WAITING_S
        return self._backoff.next_s()

    def _sleep(self, pause_s: float | None) -> None:
        """Until something is wanted, or it is time to look."""
        if pause_s is None:
            pause_s = CALM_S if self._hears else self._poll_s
        until_s = time.monotonic() + pause_s
        while not self._is_due() and (left_s := until_s - time.monotonic()) > 0:
            self._bell.wait(self._is_due, left_s if self._has_run_elsewhere is None else LOOK_S)
            if self._has_run_elsewhere is not None and self._has_run_elsewhere():
                self._wanted = True
        self._patient = False
        if not self._stopped:
            time.sleep(GATHER_S)

    def _is_due(self) -> bool:
        """Whether it ends, or there is something to exchange and a server to exchange it with."""
        if self._stopped:
            return True
        with self._lock:
            heard, self._heard = self._heard, None
        # What was told may be our own upload: then its answer has told it already.
        if heard is not None and heard != self._cursor():
            self._wanted = True
        return self._wanted and not self._patient
