"""A lock in virtual time: a waiter's clock goes on to the holder's release (paper §2.2.1).

First come, first served: CPUs reach the lock in the order of their clocks, so the queue is in the
order of arrival.  The owner is a CPU, as with NetBSD's KERNEL_LOCK: what interrupts the holder on
its CPU has the lock too; each thread has its own count of holds, and gives up those when it sleeps.
A spinner stays open to interrupts above its SPL.
"""

from __future__ import annotations

from collections import deque
from errno import EDEADLK, EPERM
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING

from netstack.errors import NetstackError
from netstack.machine.virtual_cpu import VirtualCpu, VirtualLwp

if TYPE_CHECKING:
    from netstack.machine.virtual import VirtualEngine

__all__ = ["ControlLock", "VirtualLock"]


class VirtualLock:
    """See ``machine.api.MachineLock``."""

    def __init__(self, engine: VirtualEngine, name: str, handoff_ns: int) -> None:
        self.name = name
        self.depth = 0
        self.acquired = 0
        self.contended = 0
        self.waited_ns = 0
        self.is_big = False
        self._engine = engine
        self._handoff_ns = handoff_ns
        self._owner: VirtualCpu | str | None = None  # "control" is a holder without a CPU
        self._queue: deque[tuple[int, VirtualCpu, int]] = deque()  # arrival, CPU, depth wanted
        self._holds: dict[VirtualLwp, int] = {}  # by thread; their sum is the depth

    @property
    def is_mine(self) -> bool:
        """True when the calling CPU, or control thread, holds it."""
        return self._owner is not None and self._owner == self._caller()

    def enter(self, depth: int = 1) -> None:
        """Take it ``depth`` times, waiting for another holder.

        Raises: NetstackError -- EDEADLK, held by a CPU and called from a device-side event.
        """
        caller = self._caller()
        self.acquired += 1
        if self._owner == caller:
            self.depth += depth
        elif self._owner is None and not self._queue:
            self._owner, self.depth = caller, depth
        elif isinstance(caller, VirtualCpu):
            self.contended += 1
            self._spin(caller, depth)
        else:
            self.contended += 1
            while not self._is_free():
                self._engine.wait_until(self._is_free, f"{self.name}, held by {self.holder}")
            self._owner, self.depth = caller, depth
        self._note(depth)

    def try_enter(self) -> bool:
        """Take it if that needs no waiting."""
        caller = self._caller()
        if self._owner == caller:
            self.depth += 1
        elif self._is_free():
            self._owner, self.depth = caller, 1
        else:
            return False
        self.acquired += 1
        self._note(1)
        return True

    def exit(self) -> None:
        """Undo one ``enter``; the last one passes the lock on.

        Raises: NetstackError -- EPERM, the caller does not hold it.
        """
        lwp = self._engine.curlwp()
        holds = self._holds.get(lwp, 0)
        if not self.is_mine or not holds:
            raise NetstackError(EPERM, f"{self.name}: released by who does not hold it")
        if holds == 1:
            del self._holds[lwp]
        else:
            self._holds[lwp] = holds - 1
        self.depth -= 1
        if self.depth == 0:
            self._pass_on()

    def release_all(self) -> int:
        """Drop every hold of the calling thread; return how many there were."""
        holds = self._holds.pop(self._engine.curlwp(), 0)
        if holds:
            self.depth -= holds
            if self.depth == 0:
                self._pass_on()
        return holds

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        owner = self._owner
        if isinstance(owner, VirtualCpu):
            return f"CPU {owner.index} ({owner.handler or 'idle'})"
        return "nobody" if owner is None else "a control thread"

    def _caller(self) -> VirtualCpu | str:
        return self._engine.curcpu() or "control"

    def _is_free(self) -> bool:
        return self._owner is None and not self._queue

    def _note(self, depth: int) -> None:
        lwp = self._engine.curlwp()
        self._holds[lwp] = self._holds.get(lwp, 0) + depth

    def _spin(self, cpu: VirtualCpu, depth: int) -> None:
        lwp = cpu.curlwp
        wanted_before = lwp.wants_kernel_lock
        lwp.wants_kernel_lock = wanted_before or self.is_big
        try:
            self._queue_up(cpu, depth)
        finally:
            lwp.wants_kernel_lock = wanted_before

    def _queue_up(self, cpu: VirtualCpu, depth: int) -> None:
        if all(waiter is not cpu for _, waiter, _ in self._queue):
            self._queue.append((cpu.time, cpu, depth))
            depth = 0  # granted with the lock
        # else: what we interrupted on this CPU waits already; its turn is ours as well.
        while self._owner is not cpu:
            self._engine.spin(cpu, self)
        self.depth += depth

    def _pass_on(self) -> None:
        self._owner = None
        if not self._queue:
            return
        now_ns = self._engine.now_ns()
        arrival_ns, cpu, depth = self._queue.popleft()
        self._owner, self.depth = cpu, depth
        self.waited_ns += max(0, now_ns - arrival_ns)
        self._engine.wake(cpu, now_ns + self._handoff_ns)

    def deadlock(self, cpu: VirtualCpu) -> NetstackError:
        """The error when nothing runs that could release it."""
        return NetstackError(
            EDEADLK,
            f"CPU {cpu.index} ({cpu.handler}) waits for {self.name}, held by {self.holder}, "
            f"and nothing runs that could release it",
        )


class ControlLock:
    """One control operation at a time: the main program, kernel threads, other OS threads.

    Recursive.  A kernel thread that waits for it lets others run.
    """

    def __init__(self, engine: VirtualEngine) -> None:
        self._engine = engine
        self._os_lock = RLock()
        self._owner: object = None
        self._depth = 0

    def __enter__(self) -> ControlLock:
        self._os_lock.acquire()
        cpu = self._engine.curcpu()
        caller: object = "control" if cpu is None else cpu.lwp

        def claim() -> bool:
            if self._owner is None:
                self._owner = caller
            return self._owner is caller

        try:
            self._engine.wait_until(claim, "a control operation to end")
        except BaseException:
            self._os_lock.release()
            raise
        self._depth += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
        self._os_lock.release()
