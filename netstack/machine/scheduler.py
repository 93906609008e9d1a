"""Whose turn it is in virtual time: the earliest in (time, order) among CPUs and events.

One greenlet per CPU and per kernel thread, one OS thread for all.  ``Scheduler`` decides and
switches; what a CPU does in its turn is in ``machine/virtual.py``.  CPUs at the same time take
turns in an order drawn from the seed; events of one time come first, in the order they were made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from errno import EBUSY, EDEADLK, EINVAL, ENXIO, ETIMEDOUT
from heapq import heappop, heappush
from threading import get_ident

from greenlet import getcurrent, greenlet

from netstack._fast.intr import IntrController
from netstack.errors import NetstackError
from netstack.machine.api import Softints
from netstack.machine.events import EventHeap, VirtualTimer
from netstack.machine.virtual_cpu import State, VirtualCpu, Waiter

__all__ = ["NS_PER_S", "Scheduler"]

NS_PER_S = 1_000_000_000
FOREVER_NS = 1 << 62


class Scheduler:
    """Time, events, ready CPUs and waiting threads of a virtual machine."""

    cpus: Sequence[VirtualCpu]
    controller: IntrController
    softints: Softints

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._events = EventHeap()
        self._ready: list[tuple[int, int, int, VirtualCpu]] = []
        self._seq = 0
        self._order = random.Random(seed).getrandbits
        self._now = 0  # of whoever is no CPU: control program, events
        self._horizon = FOREVER_NS  # the running CPU goes on alone up to here
        self._cpu: VirtualCpu | None = None
        self._hub: greenlet | None = None  # where decisions are made, while they are made
        self._home: greenlet = getcurrent()  # where idle loops go back to
        self._in_event = False
        self._error: BaseException | None = None
        self._waiters: list[Waiter] = []
        self._thread = get_ident()
        self._is_closed = False
        self._decided: VirtualCpu | VirtualTimer | None = None
        self._done_ns = 0  # where the last decision ended

    # --- time and events

    def now_ns(self) -> int:
        """Virtual time of the current CPU, or of the event or control program that calls."""
        cpu = self._cpu
        return self._now if cpu is None else cpu.time

    def curcpu(self) -> VirtualCpu | None:
        """The CPU that runs the caller; None for the control program and for events."""
        return self._cpu

    def at(self, when_ns: int, fn: Callable[[], object], background: bool = False) -> VirtualTimer:
        """Call ``fn`` at a time (now, if that is past), without a CPU; ``fn`` may not wait.

        A background call does not keep ``run()`` going and is no reason for time to pass.
        """
        when_ns = max(int(when_ns), self.now_ns())
        if when_ns < self._horizon:
            self._horizon = when_ns
        return self._events.add(when_ns, fn, background)

    def wake(self, cpu: VirtualCpu, when_ns: int) -> None:
        """Give a CPU that is idle, or spins, a turn at ``when_ns`` or at its own time if later."""
        if cpu.state is State.IDLE or cpu.state is State.SPIN:
            if cpu.time < when_ns:
                cpu.time = when_ns
            self._make_ready(cpu)

    def kick(self, cpu_index: int) -> None:
        """Something became pending on that CPU from outside."""
        self.cpus[cpu_index].has_news = True
        self.wake(self.cpus[cpu_index], self.now_ns())

    # --- running

    def run(self, seconds: float | None = None) -> None:
        """Let the machine work.

        Context: control program; not from a CPU, nor from an event.
        Args:    seconds -- virtual time to pass, exactly; None: until nothing is pending on a CPU,
                 no thread can go on and only background events are left.
        Raises:  what a handler raised, with a note that says where and when;
                 NetstackError -- EDEADLK, idle while a CPU waits for a lock; EBUSY, running.
        """
        self._enter()
        try:
            if seconds is None:
                while (self._ready or self._events.foreground) and self._step(FOREVER_NS):
                    pass
                self._now = max(self._now, *(cpu.time for cpu in self.cpus))
                self._check_spinners()
            else:
                if seconds < 0:
                    raise NetstackError(EINVAL, f"run(seconds={seconds}): time goes forward only")
                until_ns = self._now + round(seconds * NS_PER_S)
                while self._step(until_ns):
                    pass
                self._now = until_ns
        finally:
            self._leave()

    def step(self) -> str | None:
        """Make one decision: run one event, or one CPU up to its next switch; say what it was.

        Returns: a line for reading; None when the machine is idle.
        """
        self._enter()
        try:
            if not (self._ready or self._events.foreground) or not self._step(FOREVER_NS):
                return None
            return f"{self._now:>12} ns  {self._decided!r}"
        finally:
            self._leave()

    def wait_main(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Run the machine until a condition holds, from the control program."""
        if condition():
            return
        if self._in_event:
            raise NetstackError(EDEADLK, f"an event cannot wait for {what}; use a callout or a LWP")
        self._enter()
        try:
            until_ns = self._now + round(timeout_s * NS_PER_S)
            while not condition():
                if self._step(until_ns):
                    self._now = max(self._now, min(self._done_ns, self._next_ns()))
                    continue
                if not self._ready and not self._events.foreground:
                    self._raise_deadlock(what)
                self._now = until_ns
                raise NetstackError(ETIMEDOUT, f"waited {timeout_s:g} s for {what}")
        finally:
            self._leave()

    def _enter(self) -> None:
        if self._is_closed:
            raise NetstackError(ENXIO, "the machine is closed; make another")
        if self._hub is not None:
            raise NetstackError(EBUSY, "the machine runs already; inside it, use wait_until")
        if self._thread != get_ident():
            raise NetstackError(EBUSY, "a virtual machine runs in the thread that made it")
        self._hub = getcurrent()
        if self._hub is not self._home:
            self._home = self._hub
            for cpu in self.cpus:
                cpu.base.parent = self._hub
        if self.controller.cpus_pending:
            self._post(self._now)
        for cpu in self.cpus:
            if cpu.state is State.IDLE and self.softints.may_run(cpu):
                self.wake(cpu, self._now)  # left by a call from outside
        if self._waiters:
            self._poll(self._now)

    def _leave(self) -> None:
        self._hub = None
        self._horizon = FOREVER_NS

    def _step(self, limit_ns: int) -> bool:
        """Make the next decision, if it is due by ``limit_ns``."""
        ready = self._ready
        event_ns = self._events.next_ns()
        if ready and (event_ns is None or ready[0][0] < event_ns):
            if ready[0][0] > limit_ns:
                return False
            cpu = heappop(ready)[3]
            self._turn(cpu, limit_ns)
            now_ns = cpu.time
        elif event_ns is not None and event_ns <= limit_ns:
            now_ns = event_ns
            self._fire()
        else:
            return False
        self._done_ns = now_ns
        if self.controller.cpus_pending:
            self._post(now_ns)
        if self._waiters:
            self._poll(now_ns)
        return True

    def _fire(self) -> None:
        timer = self._events.pop()
        self._now = max(self._now, timer.when_ns)
        name = getattr(timer.fn, "__qualname__", "event")
        self._decided = timer
        self._in_event = True
        try:
            timer.fn()
        except BaseException as error:
            error.add_note(f"in event {name} at {self._now} ns")
            raise
        finally:
            self._in_event = False

    def _turn(self, cpu: VirtualCpu, limit_ns: int) -> None:
        if self._now < cpu.time:
            self._now = cpu.time
        self._decided = cpu
        self._horizon = min(limit_ns + 1, self._next_ns())
        cpu.state = State.RUNNING
        cpu.block.now_ns = cpu.time
        self._cpu = cpu
        try:
            cpu.greenlet.switch()
        finally:
            self._cpu = None
            self._horizon = FOREVER_NS
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _next_ns(self) -> int:
        """Time of the next decision."""
        event_ns = self._events.next_ns()
        ready_ns = self._ready[0][0] if self._ready else FOREVER_NS
        return ready_ns if event_ns is None else min(ready_ns, event_ns)

    def _post(self, now_ns: int) -> None:
        """Wake the CPUs that got something; those with a turn to come will see it by themselves."""
        bits = self.controller.cpus_pending
        while bits:
            index = (bits & -bits).bit_length() - 1
            bits &= bits - 1
            self.controller.clear_pending_hint(index)
            self.cpus[index].has_news = True
            self.wake(self.cpus[index], now_ns)

    def _poll(self, now_ns: int) -> None:
        """Let threads go on whose condition holds, in the order they began to wait."""
        due = [waiter for waiter in self._waiters if waiter.is_due()]
        for waiter in due:
            self._waiters.remove(waiter)
            self.resume(waiter, now_ns)

    def resume(self, waiter: Waiter, now_ns: int) -> None:
        """Make a thread runnable."""
        delay_ns = waiter.go_on()
        cpu = waiter.lwp.cpu
        assert cpu is not None
        self.wake(cpu, now_ns + delay_ns)

    # --- called on a CPU

    def _make_ready(self, cpu: VirtualCpu) -> None:
        cpu.state = State.READY
        self._seq += 1
        heappush(self._ready, (cpu.time, self._order(16), self._seq, cpu))
        if cpu.time < self._horizon:
            self._horizon = cpu.time

    def _yield(self, cpu: VirtualCpu) -> None:
        """Let others go first; returns when this CPU is the earliest again."""
        self._make_ready(cpu)
        self._to_hub(cpu)

    def _to_hub(self, cpu: VirtualCpu) -> None:
        """Leave the CPU's turn; a switch back to ``cpu.greenlet`` is its next."""
        assert self._hub is not None
        cpu.greenlet = getcurrent()
        self._hub.switch()

    def _fail(self, cpu: VirtualCpu, error: BaseException) -> None:
        """Let an exception come out of ``run()``; the CPU goes on after it when run again."""
        self._error = error
        self._yield(cpu)

    # --- nothing goes on

    def _check_spinners(self) -> None:
        for cpu in self.cpus:
            if cpu.spins_for is not None and cpu.state is State.SPIN:
                raise cpu.spins_for.deadlock(cpu)

    def _raise_deadlock(self, what: str) -> None:
        self._check_spinners()
        threads = [lwp for cpu in self.cpus for lwp in (*cpu.lwps, *cpu.soft_lwps.values())]
        others = [f"{lwp.name} for {lwp.waits_for}" for lwp in threads if lwp.waits_for]
        also = f"; also waiting: {', '.join(others)}" if others else ""
        raise NetstackError(EDEADLK, f"waits for {what}, and nothing is left that runs{also}")
