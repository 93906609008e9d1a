"""Work for later: callouts in softclock, work queues in threads, and work that repeats.

NetBSD callout(9) and workqueue(9).  A callout's function runs as a softint of level clock on the
CPU that was asked for, so it may not wait; a work queue's function runs in a thread and may.
"""

from collections import deque
from collections.abc import Callable
from errno import EINVAL
from typing import Any

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.machine.api import Engine, Timer

__all__ = ["Callout", "CalloutWheel", "Periodic", "Workqueue"]

NS_PER_S = 1_000_000_000


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
            due.popleft().invoke()


class Callout:
    """A function to call once, later.

    Args: mpsafe -- False: under KERNEL_LOCK.   cpu -- where it runs.
    """

    def __init__(
        self,
        engine: Engine,
        fn: Callable[[Any], object],
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
        self._timer: Timer | None = None
        self._is_armed = False
        self._is_running = False

    def schedule(self, seconds: float, background: bool = False) -> None:
        """Call the function in so many seconds of machine time; an earlier appointment is void.

        Context: any, also from the function itself.
        Args:    background -- the call alone is no reason for ``run()`` to go on.
        """
        self.stop()
        self._is_armed = True
        when_ns = self._engine.now_ns() + round(seconds * NS_PER_S)
        self._timer = self._engine.at(when_ns, self._expire, background)

    def stop(self) -> bool:
        """Call it off; True if it was pending.  It may be running: see ``halt``.

        Context: any.
        """
        was_armed, self._is_armed = self._is_armed, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return was_armed

    def halt(self) -> bool:
        """Call it off and wait until it does not run.

        Context: thread or control thread; not from the function.
        """
        assert_callable_from(self._engine, "wait_until")
        was_armed = self.stop()
        self._engine.wait_until(lambda: not self._is_running, f"callout {self.name} to finish")
        return was_armed

    @property
    def is_pending(self) -> bool:
        """True from ``schedule`` to the start of the call."""
        return self._is_armed

    def invoke(self) -> None:
        """Make the call, unless it was called off meanwhile; the wheel's business."""
        if not self._is_armed:
            return
        self._is_armed = False
        self._is_running = True
        lock = None if self._is_mpsafe else self._engine.kernel_lock
        if lock is not None:
            lock.enter()
        try:
            self._fn(self._arg)
        finally:
            if lock is not None:
                lock.exit()
            self._is_running = False

    def _expire(self) -> None:
        self._timer = None
        self._engine.callouts.is_due(self, self._cpu)


class Workqueue:
    """Work done in a thread of its own, in order: what a softint may not do itself.

    The thread exists while there is work.
    """

    def __init__(
        self, engine: Engine, name: str, fn: Callable[[Any], object], cpu: int = 0
    ) -> None:
        self.name = name
        self._engine = engine
        self._fn = fn
        self._cpu = cpu
        self._work: deque[Any] = deque()
        self._is_busy = SpinLock()  # held by the worker

    def enqueue(self, work: Any = None) -> None:
        """Have ``fn(work)`` called in a thread.

        Context: any, device-side events included.
        """
        self._work.append(work)
        if self._is_busy.try_enter():
            self._engine.spawn(self._drain, cpu=self._cpu, name=self.name)

    def wait(self, timeout_s: float = 10.0) -> None:
        """Wait until everything enqueued is done.

        Context: thread or control thread, but not the queue's own.
        """
        assert_callable_from(self._engine, "workqueue_wait")
        self._engine.wait_until(
            lambda: not self._work and not self._is_busy.held, f"workqueue {self.name}", timeout_s
        )

    def _drain(self) -> None:
        while True:
            try:
                while self._work:
                    self._fn(self._work.popleft())
            finally:
                self._is_busy.exit()
            # Work that came after the last look found the worker busy: look once more.
            if not self._work or not self._is_busy.try_enter():
                return


class Periodic:
    """A function called in a thread again and again: ageing, counters, watchdogs."""

    def __init__(
        self, engine: Engine, seconds: float, fn: Callable[[], object], name: str = "periodic"
    ) -> None:
        if seconds <= 0:
            raise NetstackError(EINVAL, f"{name}: a period of {seconds} s; it must be above 0")
        self.seconds = seconds
        self._queue = Workqueue(engine, name, lambda _: fn())
        self._engine = engine
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin; the first call comes after one period.  Background: it never keeps ``run()`` up.

        Context: any.
        """
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        """End, and wait for a call under way.

        Context: thread or control thread, not the function.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.wait()

    def _arm(self) -> None:
        when_ns = self._engine.now_ns() + round(self.seconds * NS_PER_S)
        self._timer = self._engine.at(when_ns, self._tick, background=True)

    def _tick(self) -> None:
        self._arm()
        self._queue.enqueue()
