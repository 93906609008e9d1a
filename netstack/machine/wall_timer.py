"""Calls at a time of the wall-clock machine: a heap that the control thread serves while the machine runs."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from threading import Lock

__all__ = ["TimerHeap", "WallTimer"]


class WallTimer:
    """See ``machine.api.Timer``."""

    __slots__ = ("background", "fn", "is_pending", "when_ns")

    def __init__(self, when_ns: int, fn: Callable[[], object], background: bool) -> None:
        self.when_ns = when_ns
        self.fn = fn
        self.background = background
        self.is_pending = True

    def cancel(self) -> bool:
        """Take the call back; False when it was made already."""
        was, self.is_pending = self.is_pending, False
        return was


class TimerHeap:
    """Pending calls in order of time; any thread may add."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, WallTimer]] = []
        self._order = count()
        self._lock = Lock()

    def add(self, when_ns: int, fn: Callable[[], object], background: bool) -> WallTimer:
        """Enter a call."""
        timer = WallTimer(when_ns, fn, background)
        with self._lock:
            heappush(self._heap, (when_ns, next(self._order), timer))
        return timer

    def take_due(self, now_ns: int) -> list[WallTimer]:
        """Remove and return what is due, oldest first."""
        due: list[WallTimer] = []
        with self._lock:
            while self._heap and (self._heap[0][0] <= now_ns or not self._heap[0][2].is_pending):
                timer = heappop(self._heap)[2]
                if timer.is_pending:
                    timer.is_pending = False
                    due.append(timer)
        return due

    def next_ns(self) -> int | None:
        """Return when the next call is due."""
        with self._lock:
            return self._heap[0][0] if self._heap else None

    def has_foreground(self) -> bool:
        """Say whether a call is pending that ``run()`` has to wait for."""
        with self._lock:
            return any(t.is_pending and not t.background for _when, _order, t in self._heap)
