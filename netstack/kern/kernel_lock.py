"""KERNEL_LOCK and softnet_lock (paper §2.1, §2.2.1; NetBSD kernel_lock(9)).

On a GENERIC kernel every handler of the network runs under KERNEL_LOCK, and softints of level net
under softnet_lock as well.  On a NET_MPSAFE kernel only handlers that are not MP-safe take them:
``locks_of`` is where that is decided.  KERNEL_LOCK nests in itself, in any context; whoever waits
through the machine gives it up meanwhile and gets it back to the same depth.  While a thread spins
for one of the two, nobody spins for a mutex that this thread owns (``Lwp.wants_kernel_lock``).

Order: KERNEL_LOCK before softnet_lock.  softnet_lock is an adaptive mutex on NetBSD: a softint that
finds it held by the thread below sleeps.  Here it is of KERNEL_LOCK's kind, recursive and given up
over sleep, and a holder keeps softints of level net off its CPU: they need not block on it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from netstack.kern.spl import IPL, splraise, splx
from netstack.machine.api import Engine, MachineLock

__all__ = ["KernelLock"]

P = ParamSpec("P")
R = TypeVar("R")


class KernelLock:
    """The two big locks of a machine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = engine.new_lock("KERNEL_LOCK")
        self.softnet_lock = engine.new_lock("softnet_lock")
        self._is_giant_locked = engine.is_giant_locked
        for lock in (self.lock, self.softnet_lock):
            lock.is_big = True
            if engine.lockdebug is not None:
                engine.lockdebug.alloc(lock, lock.name, None, "kernel_lock")

    def locks_of(self, is_mpsafe: bool) -> bool:
        """Say whether a handler of the network runs under the locks."""
        return self._is_giant_locked or not is_mpsafe

    def enter(self) -> None:
        """Take KERNEL_LOCK; the caller may hold it already.

        Context: any.
        """
        self.engine.charge("lock")
        self._enter(self.lock)

    def exit(self) -> None:
        """Undo one ``enter``; the last one lets others in.

        Raises: NetstackError -- EPERM, the caller does not hold it.
        """
        self._exit(self.lock)

    def softnet_enter(self) -> int:
        """Take softnet_lock; return the SPL for ``softnet_exit``.

        Context: softint up to level net, or thread; before it KERNEL_LOCK, if both are wanted.
        """
        cpu = self.engine.curcpu()
        s = splraise(cpu, IPL.SOFTNET) if cpu is not None else 0
        self.engine.charge("lock")
        self._enter(self.softnet_lock)
        return s

    def softnet_exit(self, s: int) -> None:
        """Drop softnet_lock and go back to SPL ``s``."""
        self._exit(self.softnet_lock)
        cpu = self.engine.curcpu()
        if cpu is not None:
            splx(cpu, s)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold both locks over a ``with`` block on a GENERIC kernel; nothing on NET_MPSAFE.

        For control paths of the network: what a system call holds there on its way in.
        """
        if not self._is_giant_locked:
            yield
            return
        self.enter()
        s = self.softnet_enter()
        try:
            yield
        finally:
            self.softnet_exit(s)
            self.exit()

    @property
    def is_mine(self) -> bool:
        """True when the calling CPU or control thread holds KERNEL_LOCK."""
        return self.lock.is_mine

    def release_all(self) -> tuple[int, int]:
        """Drop every hold of the caller, as it is going to sleep; see ``reacquire``."""
        softnet = self._release_all(self.softnet_lock)
        return self._release_all(self.lock), softnet

    def reacquire(self, held: tuple[int, int]) -> None:
        """Take the locks back to the depth they had before ``release_all``."""
        kernel, softnet = held
        if kernel:
            self._enter(self.lock, kernel)
        if softnet:
            self._enter(self.softnet_lock, softnet)

    def wrap(self, fn: Callable[P, R], is_mpsafe: bool) -> Callable[P, R]:
        """Return a driver's function, under KERNEL_LOCK unless it is MP-safe (NetBSD IFEF_MPSAFE)."""
        if is_mpsafe:
            return fn

        @wraps(fn)
        def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            self.enter()
            try:
                return fn(*args, **kwargs)
            finally:
                self.exit()

        return locked

    def _enter(self, lock: MachineLock, depth: int = 1) -> None:
        debug = self.engine.lockdebug
        if debug is None:
            lock.enter(depth)
            return
        debug.wantlock(lock)
        lock.enter(depth)
        for _ in range(depth):
            debug.locked(lock)

    def _exit(self, lock: MachineLock) -> None:
        debug = self.engine.lockdebug
        if debug is not None:
            debug.unlocked(lock)
        lock.exit()

    def _release_all(self, lock: MachineLock) -> int:
        depth = lock.release_all()
        debug = self.engine.lockdebug
        if debug is not None:
            for _ in range(depth):
                debug.unlocked(lock)
        return depth

    def stats(self) -> dict[str, dict[str, int]]:
        """Return acquisitions, contended ones and time waited (ns) by lock name."""
        return {
            lock.name: {
                "acquired": lock.acquired,
                "contended": lock.contended,
                "waited_ns": lock.waited_ns,
            }
            for lock in (self.lock, self.softnet_lock)
        }
