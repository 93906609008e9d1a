"""What a machine offers the stack: CPUs, a clock, locks that wait, and the only verbs that block.

``machine/wall.py`` and ``machine/virtual.py`` implement ``Engine``; everything above talks to these
protocols.  The registries that an engine carries (softints, interrupts, KERNEL_LOCK) are kernel
facilities: ``kern.attach(engine)`` puts them in place.  Nothing here knows networking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, ParamSpec, Protocol, TypeVar

from netstack._fast.cpu import SoftintTable
from netstack._fast.intr import IntrController
from netstack._fast.lock import SpinLock
from netstack._fast.pserialize import PSerialize
from netstack._fast.queue import RxQueue, TxQueue
from netstack.machine.caller import Caller, caller_begins, caller_ends, caller_of
from netstack.machine.cpu import Context, Cpu
from netstack.machine.stack import stack_of

__all__ = [
    "BigLock",
    "Caller",
    "Callouts",
    "Context",
    "Cpu",
    "Engine",
    "IntrHandle",
    "IntrRow",
    "Intrs",
    "LockDebugger",
    "Lwp",
    "MachineLock",
    "Pserializer",
    "Sleeper",
    "Softint",
    "Softints",
    "Timer",
    "Vector",
    "Xcalls",
    "caller_begins",
    "caller_ends",
    "caller_of",
    "stack_of",
]

P = ParamSpec("P")
R = TypeVar("R")


class Timer(Protocol):
    """One call to come, as returned by ``Engine.at``."""

    @property
    def when_ns(self) -> int: ...
    @property
    def is_pending(self) -> bool: ...
    def cancel(self) -> bool:
        """Take the call back; False when it was made already."""


class Lwp(Protocol):
    """A thread as locks know it: their owners and waiters (NetBSD curlwp).

    Made by ``Engine.spawn``; the softint thread of a level on a CPU; or a record of a control thread.
    """

    mtx_count: int  # spin mutexes held, where there is no CPU that counts them
    mtx_oldspl: int
    wants_kernel_lock: bool  # it spins for KERNEL_LOCK or softnet_lock
    blocked_on: Any  # lock it waits for, spinning or asleep; None
    waits_for: str  # what it sleeps for, in words; ""

    @property
    def name(self) -> str: ...
    @property
    def is_done(self) -> bool: ...
    @property
    def is_running(self) -> bool:
        """True while a CPU runs it; one that is pinned under a softint does not run."""


class Sleeper(Protocol):
    """One sleep of one thread; made by the thread that is going to sleep (``new_sleeper``)."""

    @property
    def lwp(self) -> Lwp: ...
    @property
    def what(self) -> str: ...
    @property
    def is_woken(self) -> bool: ...
    def sleep(self, timeout_s: float | None = None, background: bool = False) -> bool:
        """Sleep until ``wake``; return False when the time was over first.

        A wake that came before is not lost: the call returns at once.
        Context: thread or control thread; a softint when it waits for a lock.  No spin mutex held.
        Args:    background -- the timeout alone is no reason for ``run()`` to go on.
        Raises:  NetstackError -- EDEADLK, this caller cannot sleep, or nothing is left to wake it.
        """

    def wake(self) -> None:
        """Let it go on, now or as soon as it sleeps.

        Context: any, hard interrupts and device-side events included.
        """


class MachineLock(Protocol):
    """A lock whose waiting is known to the machine: recursive per CPU (or control thread).

    A waiter spins; on the virtual machine its clock goes on to the holder's release, first come,
    first served.  Not to be held over ``wait_until``: see ``release_all``.
    """

    name: str

    @property
    def depth(self) -> int:
        """How often it is held, by whoever holds it."""

    @property
    def is_mine(self) -> bool:
        """True when the calling CPU or control thread holds it."""

    is_big: bool
    """A waiter counts as one that wants KERNEL_LOCK: nobody spins for what it owns meanwhile."""

    @property
    def holder(self) -> str:
        """Who holds it, in words."""

    @property
    def acquired(self) -> int: ...
    @property
    def contended(self) -> int: ...
    @property
    def waited_ns(self) -> int: ...
    def enter(self, depth: int = 1) -> None: ...
    def try_enter(self) -> bool:
        """Take it if that needs no waiting."""
    def exit(self) -> None: ...
    def release_all(self) -> int:
        """Drop every hold of the calling thread, if any; return how many ``enter`` has to retake."""


class BigLock(Protocol):
    """KERNEL_LOCK and softnet_lock of a machine; see ``kern/kernel_lock.py``."""

    @property
    def is_mine(self) -> bool: ...
    def locks_of(self, is_mpsafe: bool) -> bool: ...
    def enter(self) -> None: ...
    def exit(self) -> None: ...
    def held(self) -> AbstractContextManager[None]: ...
    def release_all(self) -> tuple[int, int]: ...
    def reacquire(self, held: tuple[int, int]) -> None: ...
    def wrap(self, fn: Callable[P, R], is_mpsafe: bool) -> Callable[P, R]: ...


@dataclass(slots=True, eq=False)
class Softint:
    """A software interrupt; the same handle on every CPU.  See ``kern/softint.py``."""

    handle: int
    level: int  # 0 clock, 1 bio, 2 net, 3 serial
    fn: Callable[[Any], object]
    arg: Any
    is_mpsafe: bool
    name: str
    is_dead: bool = False
    active: int = 0  # CPUs inside fn
    runs: int = 0
    blocks: int = 0  # how often fn blocked on a lock


class Vector(Protocol):
    """The system's side of an interrupt: what an entry of a controller or a table offers.

    An ``IntrSource`` is one; so are a line of an interrupt controller and an MSI-X table entry.
    One that has ``eoi`` is told when its handlers have run; one with a true ``is_shared`` takes
    several handlers; one with a true ``is_fixed`` cannot move to another CPU by itself.
    """

    def route(self, cpu: int, slot: int) -> None: ...
    def mask(self) -> None: ...
    def unmask(self) -> None: ...


@dataclass(slots=True, eq=False)
class IntrHandle:
    """One handler on an interrupt source.  See ``kern/intr.py``.

    Handlers that share a source form a chain that begins with ``first``, which stands for the
    source: binding, CPU and counts are its.
    """

    name: str
    intrid: str  # "msix0 vec 3"
    source: Vector
    ipl: int
    fn: Callable[[Any], object]
    arg: Any
    is_mpsafe: bool
    kind: str
    queue: RxQueue | TxQueue | None
    softint: int
    cpu: int
    slot: int
    saved: dict[int, int] = field(default_factory=dict)  # counts of the CPUs it is not on
    active: int = 0
    first: IntrHandle | None = None  # None: this is the first
    others: list[IntrHandle] = field(default_factory=list)  # of the first only
    unclaimed: int = 0  # activations in a row that no handler recognised


class IntrRow(NamedTuple):
    """One line of ``intrctl list``."""

    name: str
    intrid: str
    counts: tuple[int, ...]  # by CPU
    affinity: tuple[int, ...]  # CPUs the interrupt is assigned to
    devices: str


class Softints(Protocol):
    """Software interrupts of a machine."""

    def establish(
        self,
        level: str | int,
        fn: Callable[[Any], object],
        arg: Any = None,
        *,
        mpsafe: bool = True,
        kind: str = "python",
        queue: RxQueue | TxQueue | None = None,
        name: str = "",
    ) -> Softint: ...
    def disestablish(self, si: Softint) -> None: ...
    def schedule(self, si: Softint) -> None: ...
    def schedule_cpu(self, si: Softint, cpu_index: int) -> None: ...
    def dispatch(self, cpu: Cpu, level: int | None = None) -> int: ...
    def run_handle(self, cpu: Cpu, handle: int) -> None: ...
    def may_run(self, cpu: Cpu) -> bool: ...
    @property
    def is_slow(self) -> bool: ...


class Intrs(Protocol):
    """Interrupt handlers of a machine and the CPUs they run on."""

    def establish(
        self,
        source: Vector,
        ipl: int,
        fn: Callable[[Any], object],
        arg: Any = None,
        *,
        name: str,
        intrid: str = "",
        cpu: int = 0,
        slot: int | None = None,
        mpsafe: bool = True,
        kind: str = "python",
        queue: RxQueue | TxQueue | None = None,
        softint: int = 0,
    ) -> IntrHandle: ...
    def disestablish(self, ih: IntrHandle) -> None: ...
    def reserve(self, count: int, name: str) -> tuple[int, int]: ...
    def unreserve(self, cpu: int, first: int, count: int) -> None: ...
    def distribute(self, ih: IntrHandle, cpus: int | Iterable[int]) -> tuple[int, ...]: ...
    def list(self) -> Sequence[IntrRow]: ...
    def find(self, name: str) -> IntrHandle: ...
    def set_intr(self, cpu: int, allowed: bool) -> None: ...
    def ipl(self, cpu: Cpu, slot: int) -> int: ...
    def deliver(self, cpu: Cpu, slot: int) -> None: ...


class Pserializer(Protocol):
    """Read sections and grace periods; see ``kern/pserialize.py``."""

    def read_enter(self, cpu: Cpu) -> int: ...
    def read_exit(self, cpu: Cpu, s: int) -> None: ...
    def perform(self, timeout_s: float = 10.0) -> None: ...


class Callouts(Protocol):
    """Timed calls of a machine; see ``kern/callout.py``."""

    def is_due(self, callout: Any, cpu_index: int) -> None: ...


class Xcalls(Protocol):
    """Cross-calls of a machine; see ``kern/xcall.py``."""

    unicasts: int
    broadcasts: int

    def post(self, call: Any, cpus: list[int]) -> None: ...


class LockDebugger(Protocol):
    """The checker of locks, where one is on; see ``kern/lockdebug.py``."""

    def graph(self) -> Any: ...
    def stats(self) -> dict[str, int]: ...
    def alloc(self, lock: object, name: str, klass: str | None, kind: Any) -> None: ...
    def free(self, lock: object) -> None: ...
    def wantlock(self, lock: object, shared: bool = False, is_try: bool = False) -> None: ...
    def locked(self, lock: object, shared: bool = False) -> None: ...
    def unlocked(self, lock: object, shared: bool = False) -> None: ...
    def sleepable(self, what: str) -> None: ...
    def enters(self, facility: str) -> None: ...
    def wait_for(self, node: str, what: str = "") -> None: ...
    def inside(self, node: str) -> AbstractContextManager[None]: ...
    def section_begins(self, cpu: Cpu) -> None: ...
    def section_ends(self, cpu: Cpu) -> None: ...
    def spl_lowered(self, cpu: Cpu, s: int) -> None: ...
    def handler_begins(self, cpu: Cpu) -> Any: ...
    def handler_ends(self, cpu: Cpu, mark: Any, name: str) -> None: ...


class Engine(Protocol):
    """A machine: it runs CPUs and owns their clock."""

    clock: Literal["wall", "virtual"]
    kernel: str
    is_giant_locked: bool  # the kernel is GENERIC
    seed: int
    controller: IntrController
    softint_table: SoftintTable
    giant: SpinLock | None  # lock word of compiled loops; KERNEL_LOCK itself is kernel_lock
    psz: PSerialize
    # Set by kern.attach():
    softints: Softints
    intrs: Intrs
    kernel_lock: BigLock
    pserialize: Pserializer
    callouts: Callouts
    xcalls: Xcalls
    lockdebug: LockDebugger | None  # None: off
    sleepqs: Any  # kern/sleepq.py
    patience_s: float | None  # longest sleep of a thread for a lock; None: no limit

    @property
    def cpus(self) -> Sequence[Cpu]: ...

    def now_ns(self) -> int:
        """Machine time of the caller: of its CPU on the virtual machine."""

    def curcpu(self) -> Cpu | None:
        """The CPU that runs the caller; None in a control thread and in a device-side event."""

    def charge(self, what: str, n: int = 1, nbytes: int = 0) -> None:
        """Let the current CPU's time go on by the cost of ``n`` times ``what``; may preempt.

        Not inside a pserialize read section.  Nothing on the wall machine or without a CPU.
        """

    def at(self, when_ns: int, fn: Callable[[], object], background: bool = False) -> Timer:
        """Call ``fn`` at a machine time, without a CPU; ``fn`` may not wait.

        A background call (periodic maintenance) does not keep ``run()`` going.
        """

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        """Wait, letting others work; KERNEL_LOCK is given up meanwhile and taken back to its depth.

        Context: thread or control thread.  The condition may be called by anyone, often: it must
                 not need a CPU and must not wait.
        Raises:  NetstackError -- EDEADLK, nothing is left that could make it true;
                 ETIMEDOUT.  EDEADLK too from a softint or interrupt, which cannot wait.
        """

    def sleep(self, seconds: float, background: bool = False) -> None:
        """Let a thread sleep; a background sleep does not keep ``run()`` going.

        Context: thread.  KERNEL_LOCK is given up meanwhile.
        """

    def control_lock(self) -> AbstractContextManager[object]:
        """The lock of control operations: one at a time, whatever thread they come from.

        Context: thread or control thread; recursive; held over waiting.
        """

    def python_thread(self, cpu_index: int) -> int | None:
        """Identifier of the OS thread that runs a CPU's Python handlers; None where CPUs share one."""

    def cross_call(self, cpu_index: int, fn: Callable[[], object]) -> None:
        """Run ``fn`` while that CPU is between two handlers, and wait for it (NetBSD xcall(9)).

        Context: thread or control thread; may sleep.
        """

    def spawn(self, fn: Callable[[], object], *, cpu: int = 0, name: str = "") -> Lwp:
        """Start a kernel thread; it may wait and sleep."""

    def curlwp(self) -> Lwp:
        """The thread that runs the caller; in a hard handler the one it interrupted."""

    def new_sleeper(self, what: str) -> Sleeper:
        """Prepare a sleep of the calling thread; ``what`` it is for goes into messages."""

    def spin_while(
        self,
        may_spin: Callable[[], bool],
        is_free: Callable[[], bool],
        word: SpinLock | None = None,
        lock: Any = None,
    ) -> bool:
        """Spin for a lock until it looks free (True), or as long as ``may_spin`` (False).

        Context: thread or softint.  The wall machine also gives up after some time.
        Args:    word -- the lock's word, if it has one.   lock -- for messages.
        """

    def spin_poll(self) -> None:
        """Have spinners look now: a lock was released, or its owner stopped running."""

    def softint_call(self, cpu: Cpu, level: int, handle: int) -> None:
        """Run a softint on the thread of its level; back when it is done or has blocked.

        Context: ``cpu`` itself, below the level; no handler of the level is under way there.
        """

    def softint_resume(self, cpu: Cpu, level: int) -> None:
        """Let a handler go on that had blocked and is in ``cpu.soft_ready``."""

    def new_lock(self, name: str) -> MachineLock:
        """Make a lock; the one named ``KERNEL_LOCK`` is also the compiled loops' ``giant``."""

    def unmask(self, cpu: Cpu) -> None:
        """Run on the current CPU, highest first, what its SPL no longer holds off.

        Called by ``splx`` and by ``softint_schedule``.  The wall machine may leave it to its loop.
        """

    def handler_starts(self, cpu: Cpu) -> None:
        """Note the activation of ``cpu.handler`` in ``cpu.context`` (trace, digest)."""

    def handler_failed(self, cpu: Cpu, error: BaseException) -> None:
        """Take over an exception of a handler: it comes out of ``run()``; the CPU goes on."""

    def run(self, seconds: float | None = None) -> None:
        """Let the CPUs work: until idle, or for so much machine time."""

    def kick(self, cpu_index: int) -> None:
        """Something became pending on that CPU from outside."""

    def close(self) -> None: ...
