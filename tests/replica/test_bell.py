"""Who waits is woken, and may be interrupted at any moment without holding up the others."""

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from synchrotron.replica.bell import Bell


def never() -> bool:
    return False


def test_who_waits_is_woken_by_a_ring() -> None:
    bell = Bell()
    waiting = threading.Thread(target=bell.wait, args=(never,), daemon=True)
    waiting.start()
    while not bell._wakers:
        time.sleep(0.001)
    bell.ring()
    waiting.join(60)
    assert not waiting.is_alive()
    bell.ring()  # nobody waits


def test_a_coroutine_is_woken_from_another_thread() -> None:
    async def main() -> None:
        bell = Bell()
        waiting = asyncio.create_task(bell.wait_async(never))
        await asyncio.sleep(0)
        assert not waiting.done()
        await asyncio.to_thread(bell.ring)
        await asyncio.wait_for(waiting, 60)
        assert not bell._wakers

    asyncio.run(main())


def test_what_is_due_is_not_waited_for() -> None:
    bell, due = Bell(), []

    def set_and_ring() -> bool:
        due.append(True)
        bell.ring()  # between the look at it and the waiting: the ring is not lost
        return len(due) > 1

    bell.wait(lambda: True)
    bell.wait(set_and_ring)
    asyncio.run(bell.wait_async(lambda: True))
    asyncio.run(bell.wait_async(lambda: set_and_ring() and False))
    assert not bell._wakers


@pytest.mark.parametrize("timeout_s", [0, 0.01])
def test_it_waits_no_longer_than_it_should(timeout_s: float) -> None:
    bell = Bell()
    bell.wait(never, timeout_s)
    asyncio.run(bell.wait_async(never, timeout_s))
    assert not bell._wakers


INTERRUPTS = """
import random, signal, threading
from synchrotron.replica.bell import Bell

def interrupted(bell):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0001, 0.01))
            while True:
                bell.wait(lambda: False)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass

def ring(bell, ended):
    while not ended.is_set():
        bell.ring()

dice = random.Random(1)
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(100):
    bell, ended = Bell(), threading.Event()
    others = [threading.Thread(target=ring, args=(bell, ended), daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    interrupted(bell)
    ended.set()
    for other in others:
        other.join(30)
        assert not other.is_alive(), "it hangs"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no interval timers")
def test_an_interrupt_of_who_waits_holds_up_nobody_who_rings() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
