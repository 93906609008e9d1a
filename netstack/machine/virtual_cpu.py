"""State of a CPU and of a kernel thread on the virtual machine (``machine/virtual.py``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

from greenlet import greenlet

from netstack._fast.cpu import CpuBlock
from netstack.machine.cpu import Cpu

if TYPE_CHECKING:
    from netstack.machine.virtual_lock import VirtualLock
    from netstack.machine.virtual_threads import Spinner

__all__ = ["SoftLwp", "State", "VirtualCpu", "VirtualLwp", "Waiter"]


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
        "idle_lwp",
        "last_slot",
        "lwp",
        "lwps",
        "runq",
        "sibling",
        "soft_lwps",
        "soft_stack",
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
        self.spins_for: VirtualLock | Spinner | None = None
        self.idle_lwp = VirtualLwp(f"idle/{index}", self, int)
        self.soft_lwps: dict[int, SoftLwp] = {}  # by level
        self.soft_stack: list[SoftLwp] = []  # those on the CPU, each pinned under the next

    @property
    def curlwp(self) -> VirtualLwp:
        """The thread that runs here; hard handlers borrow it."""
        return self.soft_stack[-1] if self.soft_stack else self.lwp or self.idle_lwp

    def soft_lwp(self, level: int) -> SoftLwp:
        """The softint thread of a level."""
        lwp = self.soft_lwps.get(level)
        if lwp is None:
            lwp = self.soft_lwps[level] = SoftLwp(level, self)
        return lwp


class VirtualLwp:
    """A kernel thread: a greenlet bound to one CPU; without a CPU, the control program."""

    __slots__ = (
        "blocked_on",
        "cpu",
        "fn",
        "greenlet",
        "is_done",
        "mtx_count",
        "mtx_oldspl",
        "name",
        "spl",
        "waits_for",
        "wants_kernel_lock",
    )

    def __init__(self, name: str, cpu: VirtualCpu | None, fn: Callable[[], object]) -> None:
        self.name = name
        self.cpu = cpu
        self.fn = fn
        self.greenlet: greenlet | None = None
        self.is_done = False
        self.spl = 0  # while it does not run
        self.waits_for = ""
        self.blocked_on: Any = None
        self.wants_kernel_lock = False
        self.mtx_count = 0
        self.mtx_oldspl = 0

    @property
    def is_running(self) -> bool:
        """True while its CPU runs it, or something that borrows it."""
        return self.cpu is not None and self.cpu.curlwp is self

    def make_runnable(self) -> None:
        """Let it have its CPU when its turn comes."""
        if self.cpu is not None:
            self.cpu.runq.append(self)

    def __repr__(self) -> str:
        state = "done" if self.is_done else f"waits for {self.waits_for}" if self.waits_for else ""
        where = "" if self.cpu is None else f" CPU#{self.cpu.index}"
        return f"<Lwp {self.name}{where} {state}>"


SOFT_NAMES = ("softclk", "softbio", "softnet", "softser")


class SoftLwp(VirtualLwp):
    """The thread on which the softints of one level of one CPU run."""

    __slots__ = ("level", "pinned")

    def __init__(self, level: int, cpu: VirtualCpu) -> None:
        super().__init__(f"{SOFT_NAMES[level]}/{cpu.index}", cpu, int)
        self.level = level
        self.pinned: greenlet | None = None  # what it interrupted, while it is on the CPU

    def make_runnable(self) -> None:
        """Let it go on when the SPL lets its level in."""
        assert self.cpu is not None
        self.cpu.soft_ready |= 1 << self.level
        self.cpu.has_news = True


class Waiter:
    """A thread and what it waits for."""

    __slots__ = ("condition", "error", "is_over", "lwp")

    def __init__(self, lwp: VirtualLwp, condition: Callable[[], bool]) -> None:
        self.lwp = lwp
        self.condition = condition
        self.is_over = False  # its time is up
        self.error: BaseException | None = None  # raised by the condition

    def go_on(self) -> int:
        """Make the thread runnable; return after how many ns that is seen."""
        self.lwp.make_runnable()
        return 0

    def is_due(self) -> bool:
        """Say whether the thread can go on."""
        if self.is_over:
            return True
        try:
            return bool(self.condition())
        except Exception as error:
            self.error = error
            return True
