"""Condition variables (paper §2.2.1; NetBSD condvar(9)).

A thread holds a mutex, finds that it cannot go on, and waits: it is queued, the mutex released, and
taken again after the wakeup.  Who changes the condition does so under the mutex and then signals.  A
softint may signal; it may not wait: it would hold up its level for longer than a lock is held.

    with mutex:
        while not items:
            cv.wait(mutex)
        item = items.pop()
"""

from __future__ import annotations

from errno import EBUSY, EINVAL

from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.mutex import Mutex
from netstack.kern.sleepq import SleepQueue
from netstack.machine.api import Engine

__all__ = ["CondVar"]


class CondVar:
    """A place to wait for a condition; ``name`` is what waiting threads show (NetBSD wmesg)."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine
        self._queue = SleepQueue(engine)
        self._is_dead = False
        debug = engine.lockdebug
        if debug is not None:
            debug.alloc(self, name, None, "condvar")

    def wait(self, mutex: Mutex) -> None:
        """Release ``mutex``, sleep until a wakeup, take ``mutex`` again (NetBSD cv_wait).

        Context: thread or control thread that holds ``mutex``, and no spin mutex but this.
                 KERNEL_LOCK is given up over the sleep.  Test the condition again afterwards.
        Raises:  NetstackError -- EPERM, ``mutex`` is not the caller's; EDEADLK, from a softint or
                 an interrupt, or nothing runs that could wake it; EINVAL, it is destroyed.
        """
        self._wait(mutex, None, False)

    def timedwait(self, mutex: Mutex, seconds: float, background: bool = False) -> int:
        """Wait for so many seconds of machine time at most (NetBSD cv_timedwait).

        Context: as ``wait``.
        Args:    background -- the end of the time alone is no reason for ``run()`` to go on.
        Returns: 0 when woken, EWOULDBLOCK when the time was over.
        """
        return self._wait(mutex, seconds, background)

    def signal(self) -> None:
        """Wake the thread that waits longest (NetBSD cv_signal).

        Context: any, with the mutex of the condition held or after its release.
        """
        self._check_alive()
        self._queue.wake_one()

    def broadcast(self) -> None:
        """Wake all that wait now (NetBSD cv_broadcast).

        Context: as ``signal``.
        """
        self._check_alive()
        self._queue.wake_all()

    @property
    def has_waiters(self) -> bool:
        """True while a thread waits (NetBSD cv_has_waiters)."""
        return len(self._queue) > 0

    def destroy(self) -> None:
        """End it; later use is an error.

        Raises: NetstackError -- EBUSY, a thread waits; EINVAL, destroyed before.
        """
        self._check_alive()
        if self.has_waiters:
            raise NetstackError(
                EBUSY, f"condvar {self.name}: {len(self._queue)} threads wait; broadcast first"
            )
        debug = self._engine.lockdebug
        if debug is not None:
            debug.free(self)
        self._is_dead = True

    def __repr__(self) -> str:
        return f"<CondVar {self.name}, {len(self._queue)} wait>"

    def _wait(self, mutex: Mutex, timeout_s: float | None, background: bool) -> int:
        assert_callable_from(self._engine, "cv_wait")
        self._check_alive()
        debug = self._engine.lockdebug
        if debug is not None:
            debug.wantlock(self)
        mutex.assert_held()
        sleeper = self._queue.enqueue(f"condvar {self.name}")
        return self._queue.sleep(sleeper, mutex, timeout_s, background)

    def _check_alive(self) -> None:
        if self._is_dead:
            raise NetstackError(EINVAL, f"condvar {self.name} is destroyed; make another")
