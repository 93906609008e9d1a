"""Threads of the wall machine as locks know them, and their sleeping.

A kernel thread is an OS thread of its own; control threads and the Python threads of CPUs get a
record when they first meet a lock.  The host decides who runs: a thread that does not sleep for a
lock counts as running, which is why spinning has a limit here.

Context: any thread.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netstack.machine.wall import WallEngine

__all__ = ["PATIENCE_S", "WallLwp", "WallSleeper", "curlwp"]

PATIENCE_S = 30.0  # longest sleep for a lock: nobody sees a deadlock here, but this ends it
LOOK_S = 0.001  # how often a control thread that sleeps looks for timed calls
NS_PER_S = 1_000_000_000

_local = threading.local()


class WallLwp:
    """A thread; see ``machine.api.Lwp``.  Without a function, the record of one that exists."""

    def __init__(
        self,
        name: str,
        fn: Callable[[], object] | None = None,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.name = name
        self.mtx_count = 0
        self.mtx_oldspl = 0
        self.wants_kernel_lock = False
        self.blocked_on: Any = None
        self.waits_for = ""
        self.rests_from_ns: int | None = None  # host time from which its waiting counts as rest
        self._fn = fn
        self._failed = failed
        if fn is None:
            self.thread = threading.current_thread()
        else:
            self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_done(self) -> bool:
        return not self.thread.is_alive()

    @property
    def is_running(self) -> bool:
        """True unless it sleeps for a lock or a condition, as far as this machine knows."""
        return not self.waits_for

    @property
    def is_busy(self) -> bool:
        """True while it works, or may go on by itself soon."""
        rests_from_ns = self.rests_from_ns
        if self.waits_for or self.is_done:
            return False
        return rests_from_ns is None or monotonic_ns() < rests_from_ns

    @property
    def is_made_here(self) -> bool:
        """True for a kernel thread; false for a control thread, or one of a CPU."""
        return self._fn is not None

    def _run(self) -> None:
        assert self._fn is not None and self._failed is not None
        _local.lwp = self
        try:
            self._fn()
        except BaseException as error:
            self._failed(error)

    def __repr__(self) -> str:
        return f"<Lwp {self.name}{f', waits for {self.waits_for}' if self.waits_for else ''}>"


def curlwp() -> WallLwp:
    """The calling thread."""
    lwp: WallLwp | None = getattr(_local, "lwp", None)
    if lwp is None:
        lwp = _local.lwp = WallLwp(threading.current_thread().name)
    return lwp


class WallSleeper:
    """See ``machine.api.Sleeper``."""

    __slots__ = ("_engine", "_gate", "is_woken", "lwp", "what")

    def __init__(self, engine: WallEngine, what: str) -> None:
        self.lwp = curlwp()
        self.what = what
        self.is_woken = False
        self._engine = engine
        self._gate = allocate_lock()
        self._gate.acquire()

    def sleep(self, timeout_s: float | None = None, background: bool = False) -> bool:
        """Sleep until ``wake``; see ``machine.api.Sleeper``.

        Timed calls are served meanwhile by a control thread, and a machine at rest is run.
        """
        deadline_ns = None if timeout_s is None else monotonic_ns() + round(timeout_s * NS_PER_S)
        engine = self._engine
        self.lwp.waits_for = self.what
        try:
            if self.is_woken:
                return True
            if self.lwp.is_made_here:
                return self._wait(deadline_ns)
            wait = engine.drive
            if engine.curcpu() is not None:
                wait = partial(engine.step_aside, self.what)
            return wait(lambda: self._wait(deadline_ns, LOOK_S), deadline_ns)
        finally:
            self.lwp.waits_for = ""

    def wake(self) -> None:
        """Let it go on; see ``machine.api.Sleeper``."""
        self.is_woken = True
        with suppress(RuntimeError):  # woken already
            self._gate.release()

    def _wait(self, deadline_ns: int | None, most_s: float | None = None) -> bool:
        left_s = -1.0 if deadline_ns is None else max(0, deadline_ns - monotonic_ns()) / NS_PER_S
        if most_s is not None:
            left_s = most_s if left_s < 0 else min(left_s, most_s)
        self._gate.acquire(timeout=left_s)
        return self.is_woken
