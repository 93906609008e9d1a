"""Sleep queues, and the traditional sleep and wakeup (NetBSD sleepq(9), tsleep(9)).

A thread queues itself, then lets go of what protects the condition, then sleeps.  A wakeup between
these steps is not lost: it finds the thread in the queue, and the sleep returns at once.  KERNEL_LOCK
is given up over the sleep and retaken to its depth.

``tsleep`` and ``wakeup`` meet on any object; the condition is protected by KERNEL_LOCK, or by a
mutex handed in.  New code uses condition variables (``kern/condvar.py``).
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from errno import EWOULDBLOCK
from typing import Any

from netstack._fast.lock import SpinLock
from netstack.kern.context import assert_callable_from
from netstack.kern.mutex import Mutex
from netstack.machine.api import Engine, Sleeper

__all__ = ["SleepQueue", "SleepTable", "tsleep", "wakeup", "wakeup_one"]


class SleepQueue:
    """Threads that sleep for one thing, in the order they came."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sleepers: deque[Sleeper] = deque()  # any thread appends and pops

    def __len__(self) -> int:
        return len(self._sleepers)

    def enqueue(self, what: str) -> Sleeper:
        """Put the caller into the queue: from now on a wakeup finds it."""
        sleeper = self._engine.new_sleeper(what)
        self._sleepers.append(sleeper)
        return sleeper

    def sleep(
        self,
        sleeper: Sleeper,
        mutex: Mutex | None = None,
        timeout_s: float | None = None,
        background: bool = False,
    ) -> int:
        """Release ``mutex``, sleep, take ``mutex`` again.

        Context: thread or control thread, which is queued.
        Returns: 0 when woken, EWOULDBLOCK when the time was over.
        """
        engine = self._engine
        try:
            if mutex is not None:
                mutex.exit()
            try:
                debug = engine.lockdebug
                if debug is not None:
                    debug.sleepable(sleeper.what)
                held = engine.kernel_lock.release_all()
                try:
                    is_woken = sleeper.sleep(timeout_s, background)
                finally:
                    engine.kernel_lock.reacquire(held)
            finally:
                if mutex is not None:
                    mutex.enter()
        finally:
            is_waiting = self._leave(sleeper)
        # Not woken, but no longer queued: a wakeup chose this one as its time was over.
        return 0 if is_woken or not is_waiting else EWOULDBLOCK

    def wake_one(self) -> bool:
        """Wake the one that waits longest; False when there is none.

        Context: any.
        """
        with suppress(IndexError):
            self._sleepers.popleft().wake()
            return True
        return False

    def wake_all(self) -> int:
        """Wake all that wait now; return how many.

        Context: any.
        """
        return sum(self.wake_one() for _ in range(len(self._sleepers)))

    def _leave(self, sleeper: Sleeper) -> bool:
        with suppress(ValueError):
            self._sleepers.remove(sleeper)
            return True
        return False


class SleepTable:
    """The queues of a machine that ``tsleep`` uses, by identity of what is slept on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queues: dict[int, tuple[object, SleepQueue]] = {}  # keeps the object, so its id
        self._guard = SpinLock()  # of entering a queue against forgetting it

    def enqueue(self, ident: object, what: str) -> tuple[SleepQueue, Sleeper]:
        """Put the caller into the queue of an object."""
        self._guard.enter()
        try:
            made = (ident, SleepQueue(self._engine))
            queue = self._queues.setdefault(id(ident), made)[1]
            return queue, queue.enqueue(what)
        finally:
            self._guard.exit()

    def find(self, ident: object) -> SleepQueue | None:
        """The queue of an object, if somebody sleeps on it."""
        found = self._queues.get(id(ident))
        return found[1] if found is not None else None

    def trim(self, ident: object) -> None:
        """Forget an object on which nobody sleeps any more."""
        self._guard.enter()
        found = self._queues.get(id(ident))
        if found is not None and not len(found[1]):
            del self._queues[id(ident)]
        self._guard.exit()


def tsleep(
    engine: Engine,
    ident: Any,
    wmesg: str,
    timeout_s: float | None = None,
    mutex: Mutex | None = None,
) -> int:
    """Sleep on an object until ``wakeup`` of it.

    Context: thread or control thread.  The condition was tested under KERNEL_LOCK or ``mutex``,
             which are given up when the caller is queued, and retaken; test it again.
    Args:    timeout_s -- None: for as long as it takes.
    Returns: 0, or EWOULDBLOCK when the time was over.
    Raises:  NetstackError -- EDEADLK, from a context that cannot sleep, or nothing runs that could
             wake it.
    Source:  NetBSD tsleep(9), mtsleep(9).
    """
    assert_callable_from(engine, "cv_wait")
    table: SleepTable = engine.sleepqs
    queue, sleeper = table.enqueue(ident, wmesg)
    try:
        return queue.sleep(sleeper, mutex, timeout_s)
    finally:
        table.trim(ident)


def wakeup(engine: Engine, ident: Any) -> int:
    """Wake all that sleep on an object; return how many.

    Context: any.
    """
    queue: SleepQueue | None = engine.sleepqs.find(ident)
    return queue.wake_all() if queue is not None else 0


def wakeup_one(engine: Engine, ident: Any) -> bool:
    """Wake the one that sleeps on an object the longest.

    Context: any.
    """
    queue: SleepQueue | None = engine.sleepqs.find(ident)
    return queue.wake_one() if queue is not None else False
