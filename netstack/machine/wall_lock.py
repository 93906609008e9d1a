"""Locks of the wall-clock machine: a spin word, made recursive per OS thread.

KERNEL_LOCK wraps the word that the compiled loops take on a GENERIC kernel, so Python handlers and compiled
ones exclude each other.  Waiting spins with the GIL released.
"""

from errno import EPERM
from threading import get_ident
from time import monotonic_ns

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.machine.wall_threads import curlwp

__all__ = ["WallLock"]


class WallLock:
    """See ``machine.api.MachineLock``.

    Args: word -- the lock word; a new one when it is not given.
    """

    def __init__(self, name: str, word: SpinLock | None = None) -> None:
        self.name = name
        self._word = word if word is not None else SpinLock()
        self._owner = 0  # thread; written by the owner only
        self._depth = 0
        self._owner_name = ""
        self.waited_ns = 0
        self.is_big = False

    @property
    def depth(self) -> int:
        """How often it is held, by whoever holds it."""
        return self._depth

    @property
    def is_mine(self) -> bool:
        """True when the calling thread holds it."""
        return self._owner == get_ident()

    @property
    def acquired(self) -> int:
        return self._word.acquired

    @property
    def contended(self) -> int:
        return self._word.contended

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        if not self._word.held:
            return "nobody"
        return self._owner_name or "a compiled handler"

    def enter(self, depth: int = 1) -> None:
        """Take it, ``depth`` times over; the caller may hold it already."""
        me = get_ident()
        if self._owner != me:
            lwp = curlwp()
            if not self._word.try_enter():
                start_ns = monotonic_ns()
                wanted_before = lwp.wants_kernel_lock
                lwp.wants_kernel_lock = wanted_before or self.is_big
                self._word.enter()
                lwp.wants_kernel_lock = wanted_before
                self.waited_ns += monotonic_ns() - start_ns
            self._owner = me
            self._owner_name = lwp.name
        self._depth += depth

    def try_enter(self) -> bool:
        """Take it if that needs no waiting."""
        me = get_ident()
        if self._owner != me:
            if not self._word.try_enter():
                return False
            self._owner = me
            self._owner_name = curlwp().name
        self._depth += 1
        return True

    def exit(self) -> None:
        """Undo one ``enter``; the last one lets others in.

        Raises: NetstackError -- EPERM, the caller does not hold it.
        """
        if self._owner != get_ident():
            raise NetstackError(EPERM, f"{self.name}: released by who does not hold it")
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0
            self._owner_name = ""
            self._word.exit()

    def release_all(self) -> int:
        """Drop every hold of the caller, if it has any; return how many."""
        depth = self._depth if self.is_mine else 0
        if depth:
            self._depth = 0
            self._owner = 0
            self._owner_name = ""
            self._word.exit()
        return depth
