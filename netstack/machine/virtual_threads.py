"""Threads of the virtual machine: who runs, who sleeps, who spins; the threads of softints.

A softint handler runs on the thread of its level on its CPU, as on NetBSD (softint(9)): the thread
that it interrupted is *pinned* under it.  A handler that finds a lock held blocks: the pinned thread
goes on, the softint thread waits, no other handler of the level starts on that CPU, and when the
lock is free the softint thread goes on as soon as the SPL lets its level in.

Context: as ``machine/virtual.py``, of which this is a part.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EDEADLK
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from netstack._fast.lock import SpinLock
from netstack._fast.pserialize import PSerialize
from netstack.errors import NetstackError
from netstack.machine.api import Cpu
from netstack.machine.events import VirtualTimer
from netstack.machine.scheduler import NS_PER_S, Scheduler
from netstack.machine.virtual_cpu import SoftLwp, State, VirtualCpu, VirtualLwp, Waiter

__all__ = ["PATIENCE_S", "Spinner", "Threads", "VirtualSleeper"]

PATIENCE_S = 10.0  # machine time; longest sleep of the control program for a lock


class Spinner(Waiter):
    """A CPU that spins for a lock whose owner runs."""

    __slots__ = ("cpu", "handoff_ns", "lock")

    def __init__(
        self, cpu: VirtualCpu, condition: Callable[[], bool], lock: Any, handoff_ns: int
    ) -> None:
        super().__init__(cpu.curlwp, condition)
        self.cpu = cpu
        self.lock = lock
        self.handoff_ns = handoff_ns

    @property
    def name(self) -> str:
        """What it spins for."""
        return getattr(self.lock, "name", "a lock")

    @property
    def holder(self) -> str:
        """Who holds that."""
        return getattr(self.lock, "holder", "somebody")

    def go_on(self) -> int:
        """The spinning CPU sees the lock's line change; return how long that takes, ns."""
        return self.handoff_ns

    def deadlock(self, cpu: VirtualCpu) -> NetstackError:
        """The error when nothing runs that could release it."""
        return NetstackError(
            EDEADLK,
            f"CPU {cpu.index} ({cpu.handler}) spins for {self.name}, held by {self.holder}, "
            f"and nothing runs that could release it",
        )


class VirtualSleeper:
    """See ``machine.api.Sleeper``."""

    __slots__ = ("_engine", "_is_parked", "_waiter", "is_woken", "lwp", "what")

    def __init__(self, engine: Threads, what: str) -> None:
        self.lwp = engine.curlwp()
        self.what = what
        self.is_woken = False
        self._engine = engine
        self._is_parked = False
        self._waiter = Waiter(self.lwp, bool)

    def sleep(self, timeout_s: float | None = None, background: bool = False) -> bool:
        """Sleep until ``wake``; see ``machine.api.Sleeper``."""
        if self.is_woken:
            return True
        engine = self._engine
        cpu = engine.curcpu()
        if cpu is None:
            return self._sleep_main(timeout_s)
        engine.check_may_block(cpu, self.what)
        timer: VirtualTimer | None = None
        if timeout_s is not None:
            when_ns = cpu.time + round(timeout_s * NS_PER_S)
            timer = engine.at(when_ns, self._expire, background)
        self._is_parked = True
        try:
            engine.block(cpu, self.what)
        finally:
            self._is_parked = False
            if timer is not None:
                timer.cancel()
        return self.is_woken

    def wake(self) -> None:
        """Let it go on; see ``machine.api.Sleeper``."""
        if not self.is_woken:
            self.is_woken = True
            self._resume()

    def _expire(self) -> None:
        if not self.is_woken:
            self._resume()

    def _resume(self) -> None:
        if self._is_parked:
            self._is_parked = False
            self._engine.resume(self._waiter, self._engine.now_ns())

    def _sleep_main(self, timeout_s: float | None) -> bool:
        engine = self._engine
        over: list[bool] = []
        timer: VirtualTimer | None = None
        if timeout_s is not None:
            when_ns = engine.now_ns() + round(timeout_s * NS_PER_S)
            timer = engine.at(when_ns, lambda: over.append(True))
        limit_s = PATIENCE_S if timeout_s is None else timeout_s + 1.0
        self.lwp.waits_for = self.what
        try:
            engine.wait_main(lambda: self.is_woken or bool(over), self.what, limit_s)
        finally:
            self.lwp.waits_for = ""
            if timer is not None:
                timer.cancel()
        return self.is_woken


class Threads(Scheduler):
    """The part of a virtual machine that knows threads."""

    psz: PSerialize
    handoff_ns: int
    charge: Callable[..., None]
    unmask: Callable[[Cpu], None]
    handler_starts: Callable[[Cpu], None]

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.control_lwp = VirtualLwp("the control program", None, int)

    def curlwp(self) -> VirtualLwp:
        """The thread that runs the caller; in a hard handler the one it interrupted."""
        cpu = self._cpu
        return self.control_lwp if cpu is None else cpu.curlwp

    def new_sleeper(self, what: str) -> VirtualSleeper:
        """Prepare a sleep of the calling thread."""
        return VirtualSleeper(self, what)

    # --- sleeping

    def check_may_block(self, cpu: VirtualCpu, what: str) -> None:
        """Refuse a sleep that would take the CPU from what does not sleep.

        Raises: NetstackError -- EDEADLK, with the rule.
        """
        why = ""
        if cpu.context not in ("thread", "soft"):
            why = "a hard interrupt cannot wait"
        elif cpu.mtx_count:
            why = f"it holds {cpu.mtx_count} spin mutex(es), and who spins for them waits with it"
        elif self.psz.in_section(cpu.index):
            why = "no waiting in a pserialize read section"
        if why:
            raise NetstackError(EDEADLK, f"{cpu!r} cannot wait for {what}: {why}")

    def block(self, cpu: VirtualCpu, what: str) -> None:
        """Give the CPU to others until ``resume``; ``check_may_block`` came before."""
        lwp = cpu.curlwp
        lwp.waits_for = what
        try:
            if isinstance(lwp, SoftLwp):
                self._block_soft(cpu, lwp)
            else:
                lwp.spl = cpu.spl
                cpu.base.switch()
        finally:
            lwp.waits_for = ""

    def _block_soft(self, cpu: VirtualCpu, lwp: SoftLwp) -> None:
        saved = (cpu.spl, cpu.context, cpu.handler)
        cpu.soft_blocked |= 1 << lwp.level
        cpu.soft_blocks[lwp.level] += 1
        self.psz.switchpoint(cpu.index)
        assert lwp.pinned is not None
        lwp.pinned.switch()
        cpu.spl, cpu.context, cpu.handler = saved
        if not self._is_closed:
            self.handler_starts(cpu)
            self.charge("switch")

    # --- threads of softints

    def softint_call(self, cpu: Cpu, level: int, handle: int) -> None:
        """Run a softint on the thread of its level; back when it is done or has blocked."""
        assert isinstance(cpu, VirtualCpu)
        lwp = cpu.soft_lwp(level)
        if lwp.greenlet is None or lwp.greenlet.dead:
            lwp.greenlet = greenlet(_soft_thread, parent=cpu.base)

        def work() -> greenlet:
            self.softints.run_handle(cpu, handle)
            assert lwp.pinned is not None
            return lwp.pinned

        self._switch_soft(cpu, lwp, work)

    def softint_resume(self, cpu: Cpu, level: int) -> None:
        """Let a handler go on that had blocked."""
        assert isinstance(cpu, VirtualCpu)
        cpu.soft_blocked &= ~(1 << level)
        cpu.soft_ready &= ~(1 << level)
        self._switch_soft(cpu, cpu.soft_lwp(level))

    def _switch_soft(self, cpu: VirtualCpu, lwp: SoftLwp, *work: Callable[[], greenlet]) -> None:
        before = (cpu.spl, cpu.context, cpu.handler)
        lwp.pinned = getcurrent()
        cpu.soft_stack.append(lwp)
        try:
            assert lwp.greenlet is not None
            lwp.greenlet.switch(*work)
        finally:
            lwp.pinned = None
            cpu.soft_stack.remove(lwp)
            cpu.spl, cpu.context, cpu.handler = before
        if self._is_closed:
            raise GreenletExit  # the softint was unwound, and so is what it interrupted

    # --- spinning

    def spin_while(
        self,
        may_spin: Callable[[], bool],
        is_free: Callable[[], bool],
        word: SpinLock | None = None,
        lock: Any = None,
    ) -> bool:
        """Spin for a lock until it looks free (True), or as long as ``may_spin`` (False).

        A spinner stays open to interrupts above its SPL.
        """
        cpu = self._cpu
        if cpu is None:
            return False
        spinner = Spinner(cpu, lambda: is_free() or not may_spin(), lock, self.handoff_ns)
        while not is_free():
            if not may_spin():
                return False
            self._waiters.append(spinner)
            cpu.state = State.SPIN
            cpu.spins_for = spinner
            self._to_hub(cpu)
            if spinner in self._waiters:
                self._waiters.remove(spinner)
                self._take_news(cpu)
        return True

    def spin_poll(self) -> None:
        """Have spinners look now: a lock was released, or its owner stopped running."""
        due = [w for w in self._waiters if isinstance(w, Spinner) and w.is_due()]
        for spinner in due:
            self._waiters.remove(spinner)
            self.resume(spinner, self.now_ns())

    def _take_news(self, cpu: VirtualCpu) -> None:
        """Take the interrupts for which a spinning CPU was woken."""
        raise NotImplementedError


def _soft_thread(work: Callable[[], greenlet]) -> None:
    """What runs on the greenlet of a softint thread; while it rests, it holds no engine."""
    while True:
        home = work()
        del work
        work = home.switch()
