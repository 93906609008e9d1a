"""Work done in a thread: what an interrupt or a softint may not do itself (NetBSD workqueue(9)).

A work queue has a function and one queue, or one for each CPU.  A work item waits on it at most once
at a time: a second ``enqueue`` before the function is called changes nothing.  The function runs in
a thread, one call at a time per queue, in the order of arrival, and may sleep; an item may be
enqueued again from its own call.  A thread exists while its queue has work.

``Periodic`` is a work queue with one item and a clock: ageing, counters, watchdogs.

Limits: the item is a hashable object; what is equal is the same item.
"""

from collections import deque
from collections.abc import Callable, Hashable
from errno import EDEADLK, EINVAL, ENXIO
from typing import Any

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.spl import IPL
from netstack.machine.api import Caller, Engine, Timer, caller_of

__all__ = ["Periodic", "Workqueue"]

NS_PER_S = 1_000_000_000
ALL = object()  # every item there is
NOTHING = object()


class _Queue:
    """Work of one thread; all fields but ``worker`` are guarded by the work queue's lock."""

    __slots__ = ("cpu", "is_busy", "name", "running", "work", "worker")

    def __init__(self, name: str, cpu: int) -> None:
        self.name = name
        self.cpu = cpu
        self.work: deque[tuple[Hashable, Any]] = deque()
        self.running: Any = NOTHING
        self.is_busy = False  # a thread is there, or comes
        self.worker: Caller | None = None  # written by that thread


class Workqueue:
    """Items, a function, and the threads that bring them together.

    Args: fn -- called as ``fn(arg)``.   ipl -- highest level that ``enqueue`` is called from.
          percpu -- a queue and a thread for each CPU (WQ_PERCPU); else one, on ``cpu``.
          mpsafe -- False: the function runs under KERNEL_LOCK (no WQ_MPSAFE).
    Raises: NetstackError -- EINVAL, no such CPU.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        fn: Callable[[Any], object],
        *,
        ipl: int = IPL.VM,
        percpu: bool = False,
        mpsafe: bool = True,
        cpu: int = 0,
    ) -> None:
        if not 0 <= cpu < len(engine.cpus):
            raise NetstackError(EINVAL, f"{name}: no CPU {cpu}; there are {len(engine.cpus)}")
        self.name = name
        self.ipl = int(ipl)
        self.is_percpu = percpu
        self.enqueued = 0  # items accepted
        self.joined = 0  # calls of enqueue that found the item waiting
        self.ran = 0  # calls of the function
        self._engine = engine
        self._fn = fn
        self._is_mpsafe = mpsafe
        self._is_dead = False
        self._node = f"workqueue {name}"  # in the lock order: a wait for it is a wait for its function
        # Guards the queues, _pending and the counters.  Held for a few lines, never over a call
        # into the machine.
        self._lock = SpinLock()
        self._pending: set[Hashable] = set()  # items that wait, on whatever queue
        self._queues = (
            [_Queue(f"{name}/{each.index}", each.index) for each in engine.cpus]
            if percpu
            else [_Queue(name, cpu)]
        )

    def enqueue(self, work: Hashable = None, arg: Any = ALL, cpu: int | None = None) -> bool:
        """Have the function called with ``arg`` in a thread; nothing when the item waits already.

        Context: any up to the queue's level, control threads and device-side events included.
        Args:    work -- the item.   arg -- what the function gets; the item, if it is not given.
                 cpu -- of a queue per CPU: whose; the caller's by default, 0 without a CPU.
        Returns: False when it was waiting before.
        Raises:  NetstackError -- EDEADLK, from a handler above the queue's level; EINVAL, ``cpu``
                 without a queue per CPU, or no such CPU; ENXIO, the queue is destroyed.
        """
        queue = self._queue_for(cpu)
        self._lock.enter()
        try:
            if self._is_dead:
                raise NetstackError(ENXIO, f"workqueue {self.name} is destroyed; it takes no work")
            if work in self._pending:
                self.joined += 1
                return False
            self._pending.add(work)
            queue.work.append((work, work if arg is ALL else arg))
            self.enqueued += 1
            must_start = not queue.is_busy
            queue.is_busy = True
        finally:
            self._lock.exit()
        if must_start:
            self._start(queue)
        return True

    def is_pending(self, work: Hashable = None) -> bool:
        """True while the item waits for its call.

        Context: any.
        """
        return work in self._pending

    def wait(self, work: Any = ALL, timeout_s: float = 10.0) -> None:
        """Wait until an item neither waits nor runs; without one, until all is done.

        Context: thread or control thread, but not the queue's own.
        Raises:  NetstackError -- EDEADLK, from a handler or from the function itself, or the work
                 cannot go on; ETIMEDOUT.
        Source:  NetBSD workqueue_wait(); it lets the function wait for itself without effect.
        """
        assert_callable_from(self._engine, "workqueue_wait")
        me = caller_of(self._engine)
        if any(queue.worker is me for queue in self._queues):
            raise NetstackError(EDEADLK, f"workqueue {self.name}: its function waits for itself")
        debug = self._engine.lockdebug
        if debug is not None:
            debug.wait_for(self._node)
        what = "" if work is ALL else f" to finish {work!r}"
        self._engine.wait_until(
            lambda: not self._is_at_work(work), f"workqueue {self.name}{what}", timeout_s
        )

    def destroy(self, timeout_s: float = 10.0) -> None:
        """End the queue; what was enqueued is done first.

        Context: thread or control thread, but not the queue's own.
        Raises:  NetstackError -- EINVAL, destroyed before; what ``wait`` raises.
        """
        assert_callable_from(self._engine, "workqueue_wait")
        if self._is_dead:
            raise NetstackError(EINVAL, f"workqueue {self.name} is destroyed already")
        self._is_dead = True
        self.wait(timeout_s=timeout_s)

    def _queue_for(self, cpu: int | None) -> _Queue:
        here = self._engine.curcpu()
        if here is not None and here.context == "hard" and here.spl > self.ipl:
            raise NetstackError(
                EDEADLK,
                f"workqueue {self.name}: enqueue at level {here.spl} ({here!r}), "
                f"but it was made for levels up to {self.ipl}; make it with ipl={here.spl}",
            )
        if not self.is_percpu:
            if cpu is not None:
                raise NetstackError(
                    EINVAL, f"workqueue {self.name} has no queue for CPU {cpu}; percpu=True makes it"
                )
            return self._queues[0]
        if cpu is None:
            cpu = here.index if here is not None else 0
        if not 0 <= cpu < len(self._queues):
            raise NetstackError(
                EINVAL, f"workqueue {self.name}: no CPU {cpu}; there are {len(self._queues)}"
            )
        return self._queues[cpu]

    def _is_at_work(self, work: Any) -> bool:
        if work is ALL:
            return any(queue.is_busy for queue in self._queues)
        return work in self._pending or any(
            queue.running is work or queue.running == work for queue in self._queues
        )

    def _start(self, queue: _Queue) -> None:
        self._engine.spawn(lambda: self._drain(queue), cpu=queue.cpu, name=queue.name)

    def _drain(self, queue: _Queue) -> None:
        """Thread of a queue."""
        debug = self._engine.lockdebug
        queue.worker = caller_of(self._engine)
        try:
            while True:
                self._lock.enter()
                if not queue.work:
                    queue.running = NOTHING
                    queue.worker = None
                    queue.is_busy = False
                    self._lock.exit()
                    return
                work, arg = queue.work.popleft()
                queue.running = work
                self._pending.remove(work)
                self.ran += 1
                self._lock.exit()
                if debug is None:
                    self._call(arg)
                else:
                    with debug.inside(self._node):
                        self._call(arg)
        except Exception:
            queue.running = NOTHING
            queue.worker = None
            self._start(queue)  # the others' work goes on; this thread ends with the error
            raise

    def _call(self, arg: Any) -> None:
        if self._is_mpsafe:
            self._fn(arg)
            return
        lock = self._engine.kernel_lock
        lock.enter()
        try:
            self._fn(arg)
        finally:
            lock.exit()


class Periodic:
    """A function called in a thread again and again."""

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
