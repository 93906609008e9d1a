"""Packet queue: frames on their way to a softint of some CPU (NetBSD pktqueue(9); paper §2.1).

A queue without a lock (``kern/pcq.py``) and a softint for each CPU.  Whoever has frames puts them on
the queue of the CPU that their hash names; the softint there hands them to the handler as vectors,
in the order in which they were put.  A full queue takes what fits: the rest stays in the caller's
vector, to be freed and counted by the caller.

The stack's own way in is the punt ring of the kernels, which does the same inside compiled code
(docs/decisions/0003); ``net/netisr.py`` stands behind that.  This queue is for protocols in Python.

Limits: 1 to 65535 frames per CPU.
"""

from collections.abc import Callable
from errno import EBUSY, EINVAL

from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.pcq import MAXITEMS_LIMIT, FramePcq
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.mutex import Mutex
from netstack.machine.api import Cpu, Engine

__all__ = ["PKTQ_MAXLEN_FRAMES", "PktQueue"]

PKTQ_MAXLEN_FRAMES = 256  # as NetBSD's IFQ_MAXLEN


class _PerCpu:
    """The queue of one CPU.  ``old`` is there while the length changes, and is served first."""

    __slots__ = ("dequeued", "is_fenced", "is_inside", "old", "queue", "vectors")

    def __init__(self, queue: FramePcq) -> None:
        self.queue = queue
        self.old: FramePcq | None = None
        self.is_fenced = True  # nobody can put on ``old`` any more
        self.is_inside = False  # the softint runs: the handler may have a vector
        self.vectors = 0  # that have come back from the handler
        self.dequeued = 0  # frames


class PktQueue:
    """Queues of frames, one per CPU, and the softint that empties them.

    Args:    handler -- called as ``handler(mv, cpu)`` in a softint of level net; it consumes the
             vector, whose frames are of one interface.   maxlen -- frames per CPU.
             mpsafe -- False: the handler runs under KERNEL_LOCK and softnet_lock.
    Context: thread or control thread.
    Raises:  NetstackError -- EINVAL, ``maxlen`` is not 1..65535.
    """

    def __init__(
        self,
        engine: Engine,
        pool: MbufPool,
        handler: Callable[[MbufVec, Cpu], object],
        *,
        maxlen: int = PKTQ_MAXLEN_FRAMES,
        name: str = "pktq",
        mpsafe: bool = True,
    ) -> None:
        self.name = name
        self._maxlen = self._checked(maxlen)
        self._engine = engine
        self._pool = pool
        self._handler = handler
        self._is_dead = False
        self._mutex = Mutex(engine, f"pktq {name}")  # one change of length at a time
        # Taken by control threads to put, by a change of length to swap: they pass no fence.
        self._control = engine.new_lock(f"pktq {name} put")
        self._percpu = [_PerCpu(FramePcq(pool, maxlen)) for _ in engine.cpus]
        # One counter per CPU that puts; the last is for control threads.
        self._enqueued = [0] * (len(engine.cpus) + 1)
        self._drops = [0] * (len(engine.cpus) + 1)
        self._softint = engine.softints.establish("net", self._run, mpsafe=mpsafe, name=name)

    # --- data plane

    def enqueue(self, mv: MbufVec, hash: int = 0) -> bool:
        """Put the frames of a vector on the queue of CPU ``hash % ncpu``.

        Context:  any; on the CPU that the vector belongs to.
        Consumes: the frames that fit.  What is left in ``mv`` is the caller's to free.
        Order:    kept among callers with one hash on one CPU.
        Returns:  True when all fitted.
        Raises:   NetstackError -- EINVAL, the queue is destroyed.
        Source:   NetBSD pktq_enqueue().
        """
        cpu = self._engine.curcpu()
        index = hash % len(self._percpu)
        if cpu is None:
            self._control.enter()
            try:
                return self._put(mv, index, len(self._percpu))
            finally:
                self._control.exit()
        return self._put(mv, index, cpu.index)

    def _put(self, mv: MbufVec, index: int, putter: int) -> bool:
        if self._is_dead:
            raise NetstackError(EINVAL, f"pktqueue {self.name} is destroyed")
        done = self._percpu[index].queue.put(mv)
        self._enqueued[putter] += done
        self._drops[putter] += len(mv)
        if done:
            self._engine.softints.schedule_cpu(self._softint, index)
        return not mv

    def _run(self, _arg: object) -> None:
        """Softint: hand over everything that is queued on this CPU."""
        cpu = self._engine.curcpu()
        assert cpu is not None, "a softint runs on a CPU"
        mine = self._percpu[cpu.index]
        mv = MbufVec(self._pool, cpu.index)
        mine.is_inside = True
        try:
            while self._take(mine, mv):
                mine.dequeued += len(mv)
                try:
                    self._handler(mv, cpu)
                finally:
                    mine.vectors += 1
                    mv.clear()  # a handler consumes its vector; one that failed has not
        except BaseException:
            self._engine.softints.schedule(self._softint)  # the others' frames go on
            raise
        finally:
            mine.is_inside = False

    @staticmethod
    def _take(mine: _PerCpu, mv: MbufVec) -> int:
        old = mine.old
        if old is not None:
            taken = old.get(mv)
            # Until the fence somebody may still put on the old queue: the new one has to wait.
            if taken or not mine.is_fenced:
                return taken
        return mine.queue.get(mv)

    # --- control

    @property
    def maxlen(self) -> int:
        """Frames each CPU's queue holds."""
        return self._maxlen

    def set_maxlen(self, maxlen: int, timeout_s: float = 10.0) -> None:
        """Change the length; no frame is lost, none overtakes another.

        Context: thread or control thread; waits.
        Raises:  NetstackError -- EINVAL, not 1..65535.
        Locks:   the queue's mutex.
        Source:  NetBSD pktq_set_maxlen().  Departs: the old queue is emptied by its softint instead
                 of being put on the new one, which might be too short for it.
        """
        assert_callable_from(self._engine, "pktq_barrier")
        self._checked(maxlen)
        with self._mutex:
            fresh = [FramePcq(self._pool, maxlen) for _ in self._percpu]
            self._control.enter()
            for mine, queue in zip(self._percpu, fresh, strict=True):
                mine.is_fenced = False
                mine.old = mine.queue
                mine.queue = queue
            self._maxlen = maxlen
            self._control.exit()
            for cpu in self._engine.cpus:  # nobody is between choosing a queue and putting on it
                self._engine.cross_call(cpu.index, _nothing)
            for mine in self._percpu:
                mine.is_fenced = True
            self._schedule_all()
            self._wait(lambda: not any(mine.old for mine in self._percpu), timeout_s)
            for mine in self._percpu:
                mine.old = None

    def barrier(self, timeout_s: float = 10.0) -> None:
        """Wait until every frame that is queued now has been handed over and come back.

        Context: thread or control thread; waits.
        Source:  NetBSD pktq_barrier(); a position in the queue takes the place of its marker.
        """
        assert_callable_from(self._engine, "pktq_barrier")
        rings = [ring for mine in self._percpu for ring in (mine.old, mine.queue) if ring is not None]
        marks = [(ring, ring.tail) for ring in rings]
        self._schedule_all()
        self._wait(lambda: all(_is_past(ring.head, mark) for ring, mark in marks), timeout_s)
        inside = [(mine, mine.vectors) for mine in self._percpu if mine.is_inside]
        self._wait(
            lambda: all(not mine.is_inside or mine.vectors != seen for mine, seen in inside), timeout_s
        )

    def flush(self) -> int:
        """Free what is queued; returns how many frames.

        Context: thread or control thread; waits.
        """
        assert_callable_from(self._engine, "pktq_barrier")
        freed: list[int] = []
        for cpu in self._engine.cpus:
            self._engine.cross_call(cpu.index, lambda i=cpu.index: freed.append(self._drop(i)))  # type: ignore[misc]
        return sum(freed)

    def destroy(self) -> None:
        """End the queue.

        Context: thread or control thread; waits.
        Raises:  NetstackError -- EBUSY, frames are queued: ``flush`` comes first.
        """
        assert_callable_from(self._engine, "pktq_barrier")
        if any(self._length(mine) for mine in self._percpu):
            raise NetstackError(EBUSY, f"pktqueue {self.name} holds {len(self)} frames; flush it")
        self._is_dead = True
        self._engine.softints.disestablish(self._softint)

    def stats(self) -> dict[str, int]:
        """Return counters (NetBSD pktq_get_count()); exact when nobody is at work.

        ``items`` are queued now, ``drops`` did not fit.
        """
        return {
            "items": len(self),
            "maxlen": self._maxlen,
            "enqueued": sum(self._enqueued),
            "dequeued": sum(mine.dequeued for mine in self._percpu),
            "drops": sum(self._drops),
        }

    def __len__(self) -> int:
        return sum(self._length(mine) for mine in self._percpu)

    @staticmethod
    def _length(mine: _PerCpu) -> int:
        old = mine.old
        return len(mine.queue) + (len(old) if old is not None else 0)

    def _drop(self, index: int) -> int:
        """Empty the queue of a CPU that is between two handlers."""
        mine = self._percpu[index]
        mv = MbufVec(self._pool, self._pool.ncpu)
        count = 0
        while self._take(mine, mv):
            count += mv.clear()
        mine.dequeued += count
        return count

    def _schedule_all(self) -> None:
        for mine, cpu in zip(self._percpu, self._engine.cpus, strict=True):
            if self._length(mine):
                self._engine.softints.schedule_cpu(self._softint, cpu.index)

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        self._engine.wait_until(condition, f"pktqueue {self.name} to empty", timeout_s)

    @staticmethod
    def _checked(maxlen: int) -> int:
        if not 1 <= maxlen <= MAXITEMS_LIMIT:
            raise NetstackError(EINVAL, f"pktqueue: maxlen {maxlen} is not 1..{MAXITEMS_LIMIT}")
        return maxlen


def _is_past(head: int, mark: int) -> bool:
    """Say whether a 32-bit index that runs freely has reached a mark."""
    return (head - mark) % 2**32 < 2**31


def _nothing() -> None:
    pass
