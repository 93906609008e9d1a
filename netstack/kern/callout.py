"""Callouts: a function to call once, later, in softclock (NetBSD callout(9)).

A callout's function runs as a softint of level clock on the CPU that was asked for, so it may not
wait; what has to goes to a work queue (``kern/workqueue.py``).

A callout is *pending* from ``schedule`` until its call begins or ``stop``; *expired* from its time
until the next ``schedule`` or ``stop``; *invoking* from the begin of the call until the function
says ``ack``.  Between time and call it waits for its turn on the CPU: ``stop`` still catches it.

Departs: ``stop`` and ``halt`` say whether the callout was pending, NetBSD's whether it had expired.
"""

from collections import deque
from collections.abc import Callable
from errno import EBUSY, EINVAL
from typing import Any, Protocol

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.machine.api import Caller, Engine, Timer, caller_of

__all__ = ["Callout", "CalloutWheel"]

NS_PER_S = 1_000_000_000


class Interlock(Protocol):
    """A lock that ``halt`` lets go while it waits."""

    def enter(self) -> None: ...
    def exit(self) -> None: ...


class CalloutWheel:
    """The callouts of a machine that are due, by CPU; one softint runs them all."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._due: list[deque[Callout]] = [deque() for _ in engine.cpus]
        self._softint = engine.softints.establish("clock", self._run, name="softclock")

    def is_due(self, callout: "Callout", cpu_index: int) -> None:
        """Have a callout run on a CPU.

        Context: any; called when its time has come.
        """
        self._due[cpu_index].append(callout)
        self.engine.softints.schedule_cpu(self._softint, cpu_index)

    def _run(self, _: object) -> None:
        cpu = self.engine.curcpu()
        assert cpu is not None
        due = self._due[cpu.index]
        while due:
            self.engine.charge("callout")
            try:
                due.popleft().invoke()
            except BaseException:
                if due:  # the others' calls go on
                    self.engine.softints.schedule(self._softint)
                raise


class Callout:
    """A function to call once, later.

    Args: fn -- called as ``fn(arg)``; see ``setfunc``.   cpu -- where it runs.
          mpsafe -- False: under KERNEL_LOCK (no CALLOUT_MPSAFE).
    """

    def __init__(
        self,
        engine: Engine,
        fn: Callable[[Any], object] | None = None,
        arg: Any = None,
        *,
        name: str = "callout",
        cpu: int = 0,
        mpsafe: bool = True,
    ) -> None:
        if not 0 <= cpu < len(engine.cpus):
            raise NetstackError(EINVAL, f"{name}: no CPU {cpu}; there are {len(engine.cpus)}")
        self.name = name
        self._engine = engine
        self._fn = fn
        self._arg = arg
        self._cpu = cpu
        self._is_mpsafe = mpsafe
        self._is_destroyed = False
        # Guards the rest: a stop may come from any CPU.  Never held over a call into the machine.
        self._lock = SpinLock()
        self._timer: Timer | None = None
        self._appointment = 0  # changes with every schedule and stop: an old timer means nothing
        self._is_armed = False
        self._is_due = False  # its time has come, its call has not begun
        self._has_fired = False
        self._is_invoking = False
        self._runner: Caller | None = None  # who is inside the function

    def setfunc(self, fn: Callable[[Any], object], arg: Any = None) -> None:
        """Say what to call, from the next call on.

        Context: any.
        """
        self._fn = fn
        self._arg = arg

    def schedule(self, seconds: float, background: bool = False) -> None:
        """Call the function in so many seconds of machine time; an earlier appointment is void.

        Context: any, also from the function itself.
        Args:    background -- the call alone is no reason for ``run()`` to go on.
        Raises:  NetstackError -- EINVAL, no function was set, a time below 0, or it is destroyed.
        """
        if self._is_destroyed or self._fn is None or seconds < 0:
            why = "destroyed" if self._is_destroyed else "setfunc comes first" if self._fn is None else ""
            raise NetstackError(EINVAL, f"callout {self.name}: in {seconds} s? {why}")
        when_ns = self._engine.now_ns() + round(seconds * NS_PER_S)
        self._lock.enter()
        self._appointment += 1
        appointment = self._appointment
        old, self._timer = self._timer, None
        self._is_armed = True
        self._is_due = self._has_fired = False
        self._lock.exit()
        if old is not None:
            old.cancel()
        timer = self._engine.at(when_ns, lambda: self._expire(appointment), background)
        self._lock.enter()
        is_current = self._appointment == appointment
        if is_current:
            self._timer = timer
        self._lock.exit()
        if not is_current:  # another schedule or stop was quicker
            timer.cancel()

    def reset(
        self, seconds: float, fn: Callable[[Any], object], arg: Any = None, background: bool = False
    ) -> None:
        """Set the function and schedule it (NetBSD callout_reset()).

        Context: any.
        """
        self.setfunc(fn, arg)
        self.schedule(seconds, background)

    def stop(self) -> bool:
        """Call it off; True if it was pending.  It may be running: see ``halt``.

        Context: any.
        """
        self._lock.enter()
        was_pending, self._is_armed = self._is_armed, False
        self._appointment += 1
        self._is_due = self._has_fired = False
        timer, self._timer = self._timer, None
        self._lock.exit()
        if timer is not None:
            timer.cancel()
        return was_pending

    def halt(self, interlock: Interlock | None = None, timeout_s: float = 10.0) -> bool:
        """Call it off and wait until it does not run, even if the function schedules it again.

        Context: thread or control thread.  From the function itself: a ``stop``.
        Args:    interlock -- a lock the caller holds and the function may want: let go while
                 waiting, taken back before the return.
        Returns: True if it was pending.
        Raises:  NetstackError -- EDEADLK, from an interrupt or softint, or the function cannot go
                 on; ETIMEDOUT.
        """
        if self._runner is not None and self._runner is caller_of(self._engine):
            return self.stop()
        assert_callable_from(self._engine, "callout_halt")
        was_pending = self.stop()
        if self._runner is None:
            return was_pending
        if interlock is not None:
            interlock.exit()
        try:
            debug = self._engine.lockdebug
            if debug is not None:
                debug.wait_for(f"callout {self.name}")
            self._engine.wait_until(
                lambda: self._runner is None, f"callout {self.name} to finish", timeout_s
            )
        finally:
            if interlock is not None:
                interlock.enter()
        self.stop()
        return was_pending

    def destroy(self) -> None:
        """End it.

        Context: any.
        Raises:  NetstackError -- EBUSY, it is pending or runs: ``halt`` comes first.
        """
        if self._is_armed or self._runner is not None:
            state = "pending" if self._is_armed else "running"
            raise NetstackError(EBUSY, f"callout {self.name} is {state}; halt it before destroy")
        self._is_destroyed = True

    def ack(self) -> None:
        """Say that the call has got past the point where ``is_invoking`` mattered.

        Context: the function, usually under the lock it shares with who asks.
        """
        self._is_invoking = False

    @property
    def is_pending(self) -> bool:
        """True from ``schedule`` to the start of the call."""
        return self._is_armed

    @property
    def is_expired(self) -> bool:
        """True from its time to the next ``schedule`` or ``stop``."""
        return self._has_fired

    @property
    def is_invoking(self) -> bool:
        """True from the start of the call to the function's ``ack``."""
        return self._is_invoking

    @property
    def is_active(self) -> bool:
        """True while it is pending or invoking."""
        return self._is_armed or self._is_invoking

    def invoke(self) -> None:
        """Make the call, unless it was called off meanwhile; the wheel's business."""
        self._lock.enter()
        is_wanted = self._is_due
        if is_wanted:
            self._is_armed = self._is_due = False
            self._is_invoking = True
            self._runner = caller_of(self._engine)
        self._lock.exit()
        if not is_wanted:
            return
        fn, arg = self._fn, self._arg
        assert fn is not None
        lock = None if self._is_mpsafe else self._engine.kernel_lock
        debug = self._engine.lockdebug
        try:
            if lock is not None:
                lock.enter()
            try:
                if debug is None:
                    fn(arg)
                else:
                    with debug.inside(f"callout {self.name}"):
                        fn(arg)
            finally:
                if lock is not None:
                    lock.exit()
        finally:
            self._runner = None

    def _expire(self, appointment: int) -> None:
        self._lock.enter()
        is_current = self._appointment == appointment
        if is_current:
            self._timer = None
            self._is_due = self._has_fired = True
        self._lock.exit()
        if is_current:
            self._engine.callouts.is_due(self, self._cpu)
