"""State of a CPU and of a kernel thread on the virtual machine (``machine/virtual.py``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from greenlet import greenlet

from netstack._fast.cpu import CpuBlock
from netstack.machine.cpu import Cpu

if TYPE_CHECKING:
    from netstack.machine.virtual_lock import VirtualLock

__all__ = ["State", "VirtualCpu", "VirtualLwp", "Waiter"]


class State(Enum):
    """What the scheduler thinks of a CPU."""

    IDLE = "idle"
    READY = "ready"  # has work, and its turn comes
    RUNNING = "running"
    SPIN = "spins"  # for a lock that another CPU holds


class VirtualCpu(Cpu):
    """A CPU with a clock of its own."""

    __slots__ = (
        "base",
        "greenlet",
        "has_news",
        "last_slot",
        "lwp",
        "lwps",
        "runq",
        "sibling",
        "spins_for",
        "state",
        "time",
        "work",
    )

    def __init__(self, index: int, block: CpuBlock) -> None:
        super().__init__(index, block)
        self.time = 0  # ns; where this CPU is in time
        self.state = State.IDLE
        self.base: greenlet  # the idle loop; handlers of an idle CPU run on it
        self.greenlet: greenlet  # what goes on when the CPU gets its turn
        self.runq: deque[VirtualLwp] = deque()
        self.lwp: VirtualLwp | None = None  # the one that runs, or is interrupted
        self.lwps: list[VirtualLwp] = []  # all that are not done
        self.sibling: VirtualCpu | None = None  # the other core of the pair
        self.last_slot = -1  # interrupts of one level take turns
        self.work = 0  # units charged
        self.has_news = False  # something was posted here that it has not looked at
        self.spins_for: VirtualLock | None = None


class VirtualLwp:
    """A kernel thread: a greenlet bound to one CPU."""

    __slots__ = ("cpu", "fn", "greenlet", "is_done", "name", "spl", "waits_for")

    def __init__(self, name: str, cpu: VirtualCpu, fn: Callable[[], object]) -> None:
        self.name = name
        self.cpu = cpu
        self.fn = fn
        self.greenlet: greenlet
        self.is_done = False
        self.spl = 0  # while it does not run
        self.waits_for = ""

    def __repr__(self) -> str:
        state = "done" if self.is_done else f"waits for {self.waits_for}" if self.waits_for else ""
        return f"<Lwp {self.name} CPU#{self.cpu.index} {state}>"


class Waiter:
    """A thread and what it waits for."""

    __slots__ = ("condition", "error", "is_over", "lwp")

    def __init__(self, lwp: VirtualLwp, condition: Callable[[], bool]) -> None:
        self.lwp = lwp
        self.condition = condition
        self.is_over = False  # its time is up
        self.error: BaseException | None = None  # raised by the condition

    def is_due(self) -> bool:
        """Say whether the thread can go on."""
        if self.is_over:
            return True
        try:
            return bool(self.condition())
        except Exception as error:
            self.error = error
            return True
