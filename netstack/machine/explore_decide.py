"""Who goes on: the decisions of an exploring machine (``machine/explore_engine.py``, of which this is a part).

Context: as ``machine/virtual.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EDEADLK, EINVAL
from typing import Any

from greenlet import GreenletExit, getcurrent

from netstack.errors import NetstackError
from netstack.machine.api import Cpu
from netstack.machine.explore_point import (
    CONTROL,
    CPU_LIMIT,
    DRAIN,
    EVENT,
    INTR,
    Exploration,
    Step,
    StepLimitError,
)
from netstack.machine.explore_store import StoreBuffers
from netstack.machine.virtual import VirtualEngine
from netstack.machine.virtual_cpu import State, VirtualCpu, VirtualLwp, Waiter

__all__ = ["Deciding"]

ALONE_PAUSES = 500  # looks of a spinner while nobody else can go on
RMW, PAUSE = 2, 4  # of _fast/atomics.h
OPS = ("load", "store", "read-modify-write", "fence", "pause", "membarrier")


class Deciding(VirtualEngine):
    """The part of an exploring machine that decides; see ``VirtualEngine``.

    Raises: NetstackError -- EINVAL, more than ``CPU_LIMIT`` CPUs.
    """

    def __init__(self, exploration: Exploration, ncpu: int, *args: Any, **kwargs: Any) -> None:
        if ncpu > CPU_LIMIT:
            raise NetstackError(EINVAL, f"{ncpu} CPUs: an exploration has at most {CPU_LIMIT}")
        super().__init__(ncpu, *args, **kwargs)
        self.exploration = exploration
        exploration.engines.append(self)  # type: ignore[arg-type]
        self.stores = StoreBuffers(ncpu)
        self.threads: list[VirtualLwp] = []  # of the scenario; they have to end
        self._bits = 0  # CPUs in state READY
        self._next = -1  # what a CPU chose that only the hub can do
        self._is_muted = False  # somebody's condition is looked at
        self._paused = 0  # CPUs that spin, until something changes
        self._has_paused = 0  # CPUs that have waited since they looked
        self._alone = 0  # pauses of a spinner while nobody else could go on
        self._in_kernel = 0  # bits of CPUs inside a compiled kernel
        self._kernel = [""] * ncpu  # by CPU, which one
        self._finishing: Any = None  # greenlet that waits for kernels to be left at the end
        self._control: Callable[[], bool] | None = None
        self._is_control_due = False
        self._late: list[tuple[int, Waiter]] = []  # waits with a limit of their own
        self._until_ns = 0  # events up to here may come
        self._is_free = False  # foreground events may come whatever their time

    # --- decisions

    def point(self, what: str, may_take: bool = False) -> None:
        """Let others go on before the current CPU does ``what``.

        Args: may_take -- an interrupt may come in here: as on the virtual machine, where time passes,
              the SPL falls, or a lock is taken or released, and nowhere else.
        """
        cpu = self._cpu
        if cpu is None or self._is_muted:
            return
        if self._is_closed:
            if self._finishing is not None:
                self._finishing.switch()
            raise GreenletExit
        if self._in_kernel >> cpu.index & 1:
            return  # called from below a kernel's hook: that is a point already
        own = 1 << cpu.index
        while True:
            self._alone = 0
            enabled = self._enabled() | own
            if may_take and cpu.has_news and self._can_take(cpu):
                enabled |= 1 << INTR + cpu.index
            chosen = self._choose(enabled, cpu.index, cpu, what)
            if chosen == cpu.index:
                break
            if chosen == INTR + cpu.index:
                self._take_one(cpu)
                continue
            self._make_ready(cpu)
            self._go(cpu, chosen)
            while may_take and cpu.has_news and self._can_take(cpu):
                chosen = self._choose(own | 1 << INTR + cpu.index, cpu.index, cpu, what)
                if chosen == cpu.index:
                    break
                self._take_one(cpu)
            break
        self._paused = 0
        if self.stores.kept:
            self.stores.drain_all()  # what comes now is Python, which sees memory as it is

    def access(self, op: int, where: int) -> None:
        """Let other CPUs go on before an atomic access inside a kernel; called by its hook."""
        cpu = self._cpu
        if cpu is None or self._is_muted:
            return
        if self._is_closed:
            if op == PAUSE and self._finishing is not None:
                self._finishing.switch()  # the lock's holder has to finish first
            return
        own = 1 << cpu.index
        if op == PAUSE:
            if self._has_paused & own:
                return  # a spinner waits once between two looks
            self._has_paused |= own
            self.stores.drain(cpu.index)
            enabled = self._others(own)
            if not enabled:
                self._abandon(self._deadlock(f"CPU {cpu.index} spins for a lock"))
                return
            if enabled != own:
                what = f"{self._kernel[cpu.index]}: pause"
                self._leave_for(cpu, enabled & ~own, -1, what)
            return
        self._has_paused &= ~own
        if self.stores.kept and op >= RMW:
            self.stores.drain(cpu.index)
        enabled = self._enabled() | own
        if enabled == own and self.exploration.record is None:
            self._count()
        else:
            self._leave_for(cpu, enabled, cpu.index, f"{self._kernel[cpu.index]}: {OPS[op]}")
        if op:
            self._paused = self._alone = 0  # something changes: spinners look again
            if self.stores.kept and op == RMW:
                self.stores.settle(where)

    def _leave_for(self, cpu: VirtualCpu, enabled: int, current: int, what: str) -> None:
        chosen = self._choose(enabled, current, cpu, what)
        if chosen != current:
            self._make_ready(cpu)
            self._go(cpu, chosen)

    def _others(self, own: int) -> int:
        """Who can go on while the caller spins; spinners only when something has changed."""
        self._paused |= own
        enabled = self._enabled()
        if enabled:
            return enabled
        self._alone += 1  # the lock may be free by now: those that spin look again, some times
        if self._alone > ALONE_PAUSES:
            return 0
        self._paused = 0
        return self._enabled() | own

    def _abandon(self, error: Exception) -> None:
        """Let an error come out of ``run``; the CPU, inside compiled code, does not go on."""
        cpu = self._cpu
        assert cpu is not None
        self._error = self._error or error
        self._make_ready(cpu)
        self._go(cpu, -1)

    def pause(self, what: str) -> None:
        """Let others go on while the caller spins: on a CPU, in an event, or in the control program.

        Raises: NetstackError -- EDEADLK, nobody is left who could release the lock.
        """
        cpu = self._cpu
        if self._is_closed:
            raise GreenletExit
        if cpu is not None:
            if self._in_kernel >> cpu.index & 1:
                self.access(PAUSE, 0)
                return
            enabled = self._others(1 << cpu.index)
            if not enabled:
                raise self._deadlock(f"CPU {cpu.index} ({cpu.handler}) spins for {what}")
            if enabled != 1 << cpu.index:
                self._leave_for(cpu, enabled & ~(1 << cpu.index), -1, f"spins for {what}")
            return
        is_outside = self._hub is None
        if is_outside:
            self._enter()
        try:
            if not self._bits:
                raise self._deadlock(f"the control program or an event spins for {what}")
            self._run_cpu(self._choose(self._bits, -1, None, f"spins for {what}"))
        finally:
            if is_outside:
                self._leave()

    def _choose(self, enabled: int, current: int, cpu: VirtualCpu | None, what: str) -> int:
        self._count()
        exploration = self.exploration
        if enabled & (enabled - 1):
            chosen = exploration.choose(enabled, current)
        else:
            chosen = enabled.bit_length() - 1
        while DRAIN <= chosen < EVENT:
            self.stores.drain(chosen - DRAIN)
            self._paused = 0
            if exploration.record is not None:
                exploration.record.append(Step(chosen, enabled, current, chosen - DRAIN, "", "", "drain"))
            enabled &= ~(1 << chosen)
            chosen = exploration.choose(enabled, current) if enabled & (enabled - 1) else enabled.bit_length() - 1
        if exploration.record is not None:
            if cpu is None:
                step = Step(chosen, enabled, current, -1, "", "", what)
            else:
                step = Step(
                    chosen, enabled, current, cpu.index, cpu.context or "idle", cpu.handler, what
                )
            exploration.record.append(step)
        return chosen

    def _count(self) -> None:
        exploration = self.exploration
        exploration.steps += 1
        if exploration.steps > exploration.step_limit:
            exploration.step_limit += 1000  # what unwinds may take some more
            error = StepLimitError(f"no end after {exploration.steps} steps; {self._who()}")
            cpu = self._cpu
            if cpu is None or not self._in_kernel >> cpu.index & 1:
                raise error
            self._abandon(error)

    def _enabled(self) -> int:
        """Who can go on, besides the caller's CPU."""
        if self.controller.cpus_pending:
            self._post(self._now)
        if self._waiters or self._control is not None:
            self._poll(self._now)
        bits = self._bits & ~self._paused | self.stores.kept << DRAIN
        if self._is_control_due:
            bits |= 1 << CONTROL
        events = self._events
        due_ns = events.next_ns()
        if due_ns is not None and (
            due_ns <= self._until_ns or due_ns <= self._now or (events.foreground and self._is_free)
        ):
            bits |= 1 << EVENT
        return bits

    def _poll(self, now_ns: int) -> None:
        """Let threads go on whose condition holds; conditions decide nothing and have no CPU."""
        cpu, self._cpu = self._cpu, None
        self._is_muted = True
        try:
            super()._poll(now_ns)
            if self._control is not None and not self._is_control_due:
                self._is_control_due = bool(self._control())
        finally:
            self._is_muted = False
            self._cpu = cpu

    def _go(self, cpu: VirtualCpu, chosen: int) -> None:
        """Leave a CPU for what was chosen; returns when the CPU is chosen again."""
        cpu.greenlet = getcurrent()
        if 0 <= chosen < CPU_LIMIT:
            target = self.cpus[chosen]
            self._take_cpu(target)
            target.greenlet.switch()
            return
        self._next = chosen
        assert self._hub is not None
        self._hub.switch()

    def _take_cpu(self, cpu: VirtualCpu) -> None:
        self._bits &= ~(1 << cpu.index)
        cpu.state = State.RUNNING
        cpu.time = cpu.block.now_ns = self._now
        self._cpu = cpu
        self._decided = cpu

    # --- interrupts

    def unmask(self, cpu: Cpu) -> None:
        """Interrupts may come in: here, or at a later point."""
        if cpu is self._cpu and not self._is_closed:
            self._cpu.has_news = True
            self.point("unmask", True)

    def _can_take(self, cpu: VirtualCpu) -> bool:
        """Say whether an interrupt or softint is pending that the SPL lets in."""
        if cpu.block.intr_pending and self._pick(cpu) >= 0:
            return True
        if cpu.context == "hard" or self._is_put_off(cpu):
            return False
        cpu.block.softint_take_remote()
        if self.softints.may_run(cpu):
            return True
        if not cpu.block.intr_pending:
            cpu.has_news = False  # what is masked is announced by unmask
        return False

    def _take_one(self, cpu: VirtualCpu) -> bool:
        """Run the highest pending interrupt, or else what softints are pending; False: nothing."""
        block = cpu.block
        if block.intr_pending:
            slot = self._pick(cpu)
            if slot >= 0 and block.intr_clear(slot):
                cpu.last_slot = slot
                self.intrs.deliver(cpu, slot)
                cpu.has_news = True
                return True
        if cpu.context == "hard" or self._is_put_off(cpu):
            return False
        block.softint_take_remote()
        return self.softints.dispatch(cpu) > 0

    def _is_put_off(self, cpu: VirtualCpu) -> bool:
        """Slow softints wait until the thread gives the CPU up."""
        return self.softints.is_slow and cpu.curlwp is not cpu.idle_lwp

    def _deliver(self, cpu: VirtualCpu) -> None:
        """Run all that is pending: where a CPU has nothing else to go on with."""
        cpu.has_news = False
        while self._take_one(cpu):
            pass

    # --- time

    def now_ns(self) -> int:
        """Machine time: one clock for all, as nobody is early or late here."""
        return self._now

    def charge(self, what: str, n: int = 1, nbytes: int = 0) -> None:
        """Pass time and let others go on; see ``VirtualEngine.charge``."""
        cpu = self._cpu
        if cpu is None:
            return
        cost = self._steps.get(what)
        if cost is None:
            raise NetstackError(EINVAL, f"charge({what!r}): add it to machine/costs.py")
        self._now += max(1, round(cost.ns * n + cost.byte_ns * nbytes))
        cpu.time = cpu.block.now_ns = self._now
        cpu.work += n
        self.point(what, True)

    # --- CPUs

    def _run_cpu(self, index: int) -> None:
        """From the hub: let CPUs go on until one leaves it to the hub to go on."""
        self._take_cpu(self.cpus[index])
        try:
            self.cpus[index].greenlet.switch()
        finally:
            self._cpu = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _make_ready(self, cpu: VirtualCpu) -> None:
        cpu.state = State.READY
        self._bits |= 1 << cpu.index

    def _yield(self, cpu: VirtualCpu) -> None:
        self._make_ready(cpu)
        self._to_hub(cpu)

    # --- nobody goes on

    def _deadlock(self, why: str) -> NetstackError:
        return NetstackError(EDEADLK, f"deadlock: {why}; {self._who()}")

    def _who(self) -> str:
        """Who waits for what."""
        found = []
        for cpu in self.cpus:
            if cpu.state is State.SPIN and cpu.spins_for is not None:
                lock = cpu.spins_for
                found.append(f"CPU {cpu.index} ({cpu.handler}) spins for {lock.name}, held by {lock.holder}")
            elif self._in_kernel >> cpu.index & 1:
                found.append(f"CPU {cpu.index} ({cpu.handler}) is inside a kernel")
            for lwp in (*cpu.lwps, *cpu.soft_lwps.values()):
                if lwp.waits_for:
                    found.append(f"thread {lwp.name} on CPU {cpu.index} waits for {lwp.waits_for}")
        return "; ".join(found) or "nobody waits"
