"""The exploring machine: the virtual one, with a chooser in place of the clock as who decides.

Every primitive is a decision point.  There the chooser picks one actor: a CPU that has work (it does
its next step), the interrupt or softint that the current CPU's SPL lets in (now, or at a later
point), the next event (a delivery, a timer; they keep their order among themselves), a kept store,
or the control program whose wait is over.  Time still passes by the cost model, but orders nothing:
CPUs may be as fast and as slow as the chooser likes.

What is lost against time: a wait's default time limit does not exist; when nothing can go on, that
is a deadlock, and the error lists who waits for what.

Context: as ``machine/virtual.py``.   Limits: ``CPU_LIMIT`` CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from errno import EDEADLK, ETIMEDOUT

from greenlet import getcurrent, greenlet

from netstack.errors import NetstackError
from netstack.machine.explore_decide import Deciding
from netstack.machine.explore_point import CONTROL, EVENT
from netstack.machine.scheduler import NS_PER_S
from netstack.machine.virtual_cpu import VirtualCpu, Waiter
from netstack.machine.virtual_lock import VirtualLock

__all__ = ["ExploringEngine", "ExploringLock"]

DEFAULT_TIMEOUT_S = 10.0  # of Engine.wait_until: "for ever" here


class ExploringLock(VirtualLock):
    """A machine lock that lets others in before it is taken and before it is released."""

    def enter(self, depth: int = 1) -> None:
        self._engine.point(f"enter {self.name}", True)  # type: ignore[attr-defined]
        super().enter(depth)

    def exit(self) -> None:
        self._engine.point(f"exit {self.name}", True)  # type: ignore[attr-defined]
        super().exit()


class ExploringEngine(Deciding):
    """See ``VirtualEngine``; machines get one while an exploration is under way.

    Raises: NetstackError -- EINVAL, more than ``CPU_LIMIT`` CPUs.
    """

    # --- running

    def run(self, seconds: float | None = None) -> None:
        """Let the machine work; see ``Scheduler.run``.

        Raises: also NetstackError -- EDEADLK, a thread of the scenario waits for ever.
        """
        self._enter()
        until_ns = self._now if seconds is None else self._now + round(seconds * NS_PER_S)
        self._is_free = seconds is None
        try:
            while True:
                while self._step(until_ns):
                    pass
                if seconds is not None or not self._is_stuck():
                    break
                until_ns = self._background_due("threads of the scenario do not end")
            self._now = max(self._now, until_ns)
            self._check_spinners()
        finally:
            self._is_free = False
            self._leave()

    def _is_stuck(self) -> bool:
        """Say whether a thread of the scenario, or a softint, has not come to its end."""
        return not all(lwp.is_done for lwp in self.threads) or any(
            cpu.soft_blocked for cpu in self.cpus
        )

    def _background_due(self, why: str) -> int:
        """Nothing can go on: return when a background event may help, or report the deadlock."""
        self._check_spinners()
        due_ns = self._events.next_ns()
        if due_ns is None or due_ns > self._now + DEFAULT_TIMEOUT_S * NS_PER_S:
            raise self._deadlock(why)
        return due_ns

    def wait_main(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Run the machine until a condition holds and the chooser lets the control program go on."""
        if condition():
            return
        if self._in_event:
            raise NetstackError(EDEADLK, f"an event cannot wait for {what}; use a callout or a LWP")
        self._enter()
        self._control, self._is_control_due, self._is_free = condition, False, True
        try:
            until_ns = self._now
            while not (self._is_control_due and self._next == CONTROL):
                if not self._step(until_ns):
                    until_ns = self._background_due(f"the control program waits for {what}")
        finally:
            self._is_free = False
            self._next = -1
            self._control, self._is_control_due = None, False
            self._leave()

    def _enter(self) -> None:
        super()._enter()
        self._next = -1
        self.exploration.on_cpu = self

    def _leave(self) -> None:
        super()._leave()
        self.exploration.on_cpu = None

    def _step(self, limit_ns: int) -> bool:
        """Do what was chosen; False when nothing can go on.  Events come up to ``limit_ns``."""
        self._until_ns = limit_ns
        chosen, self._next = self._next, -1
        if chosen < 0:
            enabled = self._enabled() or self._others(0)
            if not enabled:
                return self._fire_late()
            chosen = self._choose(enabled, -1, None, "")
        if chosen == EVENT:
            self._fire()
        elif chosen == CONTROL:
            self._next = CONTROL
        else:
            self._run_cpu(chosen)
        return True

    def _next_ns(self) -> int:
        return self._now

    # --- threads

    def _wait_lwp(
        self, cpu: VirtualCpu, condition: Callable[[], bool], what: str, timeout_s: float
    ) -> None:
        lwp = cpu.lwp
        assert lwp is not None
        waiter = Waiter(lwp, condition)
        late = (self._now + round(timeout_s * NS_PER_S), waiter)
        if timeout_s < DEFAULT_TIMEOUT_S:
            self._late.append(late)
        self._waiters.append(waiter)
        self._block(cpu, lwp, what)
        if late in self._late:
            self._late.remove(late)
        if waiter.error is not None:
            raise waiter.error
        if waiter.is_over and not condition():
            raise NetstackError(ETIMEDOUT, f"{lwp.name} waited {timeout_s:g} s for {what}")

    def _fire_late(self) -> bool:
        """Nothing can go on: let the first wait that has a limit of its own give up."""
        if not self._late:
            return False
        when_ns, waiter = min(self._late, key=lambda late: late[0])
        self._late.remove((when_ns, waiter))
        self._now = max(self._now, when_ns)
        waiter.is_over = True
        return True

    # --- locks, end

    def new_lock(self, name: str) -> ExploringLock:
        """Make a lock whose enter and exit are decision points."""
        return ExploringLock(self, name, self.handoff_ns)

    @property
    def is_closed(self) -> bool:
        """True when nothing runs any more."""
        return self._is_closed

    def kernel_begins(self, name: str) -> int:
        """A CPU enters a compiled kernel; returns its bit, 0 outside CPUs and inside kernels."""
        cpu = self._cpu
        if cpu is None or self._in_kernel >> cpu.index & 1:
            return 0
        self._kernel[cpu.index] = name
        self._in_kernel |= 1 << cpu.index
        return 1 << cpu.index

    def kernel_ends(self, bit: int) -> None:
        """It leaves: Python code sees its own stores."""
        if bit:
            self._in_kernel &= ~bit
            self.stores.drain(bit.bit_length() - 1)

    def close(self) -> None:
        """End the machine.  CPUs inside kernels leave them first: compiled code is not unwound."""
        if self._is_closed:
            return
        self.stores.drain_all()
        self._finish_kernels()
        super().close()

    def _finish_kernels(self) -> None:
        """Let CPUs leave the kernels they are in; one that spins lets the others go first."""
        if not self._in_kernel:
            return
        self._is_closed = True
        self._finishing = getcurrent()
        self.exploration.on_cpu = self  # for the hooks
        for _ in range(FINISH_ROUNDS):
            left = [cpu for cpu in self.cpus if self._in_kernel >> cpu.index & 1]
            if not left:
                break
            for cpu in left:
                self._cpu = cpu
                cpu.base.parent = self._finishing
                with suppress(Exception):
                    cpu.greenlet.switch()
        self._is_closed = False
        self._finishing = self._cpu = self.exploration.on_cpu = None
        for cpu in self.cpus:
            if self._in_kernel >> cpu.index & 1:
                ABANDONED.append((cpu.base, cpu.greenlet, list(cpu.lwps)))
                cpu.lwps.clear()
                cpu.base = cpu.greenlet = greenlet(int)
                cpu.base.switch()


FINISH_ROUNDS = 1000
ABANDONED: list[object] = []  # spin in compiled code for ever: stacks that nobody enters again
