"""Adaptive mutex: mutual exclusion of threads that may sleep (paper §3.1.1; NetBSD mutex(9)).

It works on both machines because it waits through the engine.  Not for interrupt handlers.  A
softint may take a free one; a held one it cannot wait for, as it borrows its CPU.  Does not nest.
"""

from errno import EDEADLK, EPERM
from types import TracebackType

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.machine.api import Engine

__all__ = ["Mutex"]


class Mutex:
    """A lock for control paths; ``with mutex:`` takes it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine
        self._word = SpinLock()

    def enter(self, timeout_s: float = 10.0) -> None:
        """Take it, waiting for another holder.

        Context: thread or control thread; a softint only while it is free.
        Raises:  NetstackError -- EDEADLK, from an interrupt, or the holder cannot go on; ETIMEDOUT.
        """
        assert_callable_from(self._engine, "mutex (adaptive)")
        if not self._word.try_enter():
            self._engine.wait_until(self._word.try_enter, f"mutex {self.name}", timeout_s)

    def try_enter(self) -> bool:
        """Take it if it is free.

        Context: softint or thread.
        """
        assert_callable_from(self._engine, "mutex (adaptive)")
        return self._word.try_enter()

    def exit(self) -> None:
        """Release it.

        Raises: NetstackError -- EPERM, it is not held.
        """
        if not self._word.held:
            raise NetstackError(EPERM, f"mutex {self.name}: released but not held")
        self._word.exit()

    @property
    def is_held(self) -> bool:
        """True while anyone holds it."""
        return self._word.held

    def assert_held(self) -> None:
        """Refuse to go on without the lock: first line of ``_locked`` functions."""
        if not self._word.held:
            raise NetstackError(EDEADLK, f"mutex {self.name} must be held here")

    def __enter__(self) -> "Mutex":
        self.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.exit()
