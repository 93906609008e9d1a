"""The event heap of the virtual machine: calls to come, in (time, sequence) order.

Background calls (periodic maintenance) are counted apart: they do not keep a machine busy.
"""

from collections.abc import Callable
from heapq import heappop, heappush

__all__ = ["EventHeap", "VirtualTimer"]


class VirtualTimer:
    """A call to come; made by ``EventHeap.add``."""

    __slots__ = ("_heap", "fn", "is_background", "is_pending", "when_ns")

    def __init__(
        self, heap: "EventHeap", when_ns: int, fn: Callable[[], object], is_background: bool
    ) -> None:
        self._heap = heap
        self.when_ns = when_ns
        self.fn = fn
        self.is_background = is_background
        self.is_pending = True

    def cancel(self) -> bool:
        """Take the call back; False when it was made, or cancelled, before."""
        if not self.is_pending:
            return False
        self._heap.forget(self)
        return True

    def __repr__(self) -> str:
        state = "pending" if self.is_pending else "over"
        return f"<Timer {self.when_ns} ns {getattr(self.fn, '__qualname__', self.fn)} {state}>"


class EventHeap:
    """Timers by time; those of one time in the order they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, VirtualTimer]] = []
        self._seq = 0
        self._cancelled = 0
        self.foreground = 0  # pending calls that are not background

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def add(
        self, when_ns: int, fn: Callable[[], object], is_background: bool = False
    ) -> VirtualTimer:
        """Add a call; the caller sees to it that ``when_ns`` is not in the past."""
        timer = VirtualTimer(self, when_ns, fn, is_background)
        self._seq += 1
        self.foreground += not is_background
        heappush(self._heap, (when_ns, self._seq, timer))
        return timer

    def forget(self, timer: VirtualTimer) -> None:
        """Cancel; the entry leaves the heap when it reaches the top."""
        timer.is_pending = False
        self.foreground -= not timer.is_background
        self._cancelled += 1

    def next_ns(self) -> int | None:
        """Time of the earliest call, or None."""
        heap = self._heap
        while heap:
            when_ns, _, timer = heap[0]
            if timer.is_pending:
                return when_ns
            heappop(heap)
            self._cancelled -= 1
        return None

    def pop(self) -> VirtualTimer:
        """Take the earliest call; ``next_ns`` has just said that there is one."""
        timer = heappop(self._heap)[2]
        timer.is_pending = False
        self.foreground -= not timer.is_background
        return timer
