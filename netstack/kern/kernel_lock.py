"""KERNEL_LOCK and softnet_lock (paper §2.1, §2.2.1; NetBSD kernel_lock(9)).

On a GENERIC kernel every handler of the network runs under KERNEL_LOCK, and softints of level net
under softnet_lock as well.  On a NET_MPSAFE kernel only handlers that are not MP-safe take them:
``locks_of`` is where that is decided.  KERNEL_LOCK nests in itself, in any context; whoever waits
through the machine gives it up meanwhile and gets it back to the same depth.

Order: KERNEL_LOCK before softnet_lock.  softnet_lock is an adaptive mutex on NetBSD: a softint that
finds it held by the thread below sleeps.  Here a softint borrows its CPU and cannot sleep, so a
holder keeps softints of level net off its CPU instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from netstack.kern.spl import IPL, splraise, splx
from netstack.machine.api import Engine

__all__ = ["KernelLock"]


class KernelLock:
    """The two big locks of a machine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = engine.new_lock("KERNEL_LOCK")
        self.softnet_lock = engine.new_lock("softnet_lock")
        self._is_giant_locked = engine.is_giant_locked

    def locks_of(self, is_mpsafe: bool) -> bool:
        """Say whether a handler of the network runs under the locks."""
        return self._is_giant_locked or not is_mpsafe

    def enter(self) -> None:
        """Take KERNEL_LOCK; the caller may hold it already.

        Context: any.
        """
        self.engine.charge("lock")
        self.lock.enter()

    def exit(self) -> None:
        """Undo one ``enter``; the last one lets others in."""
        self.lock.exit()

    def softnet_enter(self) -> int:
        """Take softnet_lock; return the SPL for ``softnet_exit``.

        Context: softint up to level net, or thread; before it KERNEL_LOCK, if both are wanted.
        """
        cpu = self.engine.curcpu()
        s = splraise(cpu, IPL.SOFTNET) if cpu is not None else 0
        self.engine.charge("lock")
        self.softnet_lock.enter()
        return s

    def softnet_exit(self, s: int) -> None:
        """Drop softnet_lock and go back to SPL ``s``."""
        self.softnet_lock.exit()
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
        softnet = self.softnet_lock.release_all()
        return self.lock.release_all(), softnet

    def reacquire(self, held: tuple[int, int]) -> None:
        """Take the locks back to the depth they had before ``release_all``."""
        kernel, softnet = held
        if kernel:
            self.lock.enter(kernel)
        if softnet:
            self.softnet_lock.enter(softnet)

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
