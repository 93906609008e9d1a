"""The real machine: a pinned OS thread per CPU, the host's clock (paper §6: what scales, scales for real).

Between two ``run`` calls the CPUs rest: the loops have come back, nothing moves, counters are exact.  ``run()`` starts
them, serves timed calls in the calling thread, and stops them when everything is idle or the time is up.

Context: control threads.  Knows no networking.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from errno import EDEADLK, EINVAL, ENXIO, ETIMEDOUT
from typing import Any, Literal

from netstack._fast import chain
from netstack._fast.intr import IntrController
from netstack._fast.lock import SpinLock
from netstack._fast.mbuf import MbufPool
from netstack.errors import NetstackError
from netstack.machine.api import BigLock, Callouts, Cpu, Intrs, LockDebugger, Pserializer, Softints, Xcalls
from netstack.machine.cpu import build_cpus, is_giant_locked
from netstack.machine.wall_cpu import WallCpu
from netstack.machine.wall_lock import WallLock
from netstack.machine.wall_threads import PATIENCE_S, WallLwp, WallSleeper, curlwp
from netstack.machine.wall_timer import TimerHeap, WallTimer

__all__ = ["WallEngine"]

NS_PER_S = 1_000_000_000
POLL_S = 50e-6  # between looks for idleness
PYTHON_ROUNDS = 256  # rounds a Python thread goes on as its CPU before it gives it back
SETTLE_NS = 100_000_000  # a thread that waits for a condition for longer rests
QUIET_LOOKS = 3  # looks in a row that must find nothing new
SPIN_NS = 50_000  # longest spinning for an adaptive lock


class WallEngine:
    """See ``machine.api.Engine``; ``kern.attach`` has to follow.

    Args:   seed -- of everything that draws lots (hash keys).   pin -- bind CPU i to processor i of the host, modulo.
    Raises: NetstackError -- EINVAL, see ``build_cpus``.
    """

    clock: Literal["wall", "virtual"] = "wall"
    softints: Softints
    intrs: Intrs
    kernel_lock: BigLock
    pserialize: Pserializer
    callouts: Callouts
    xcalls: Xcalls
    lockdebug: LockDebugger | None = None
    sleepqs: Any
    patience_s: float | None = PATIENCE_S

    def __init__(
        self,
        ncpu: int,
        pool: MbufPool,
        controller: IntrController | None = None,
        kernel: str = "NET_MPSAFE",
        seed: int = 0,
        *,
        psz_strategy: str = "auto",
        pin: bool = True,
    ) -> None:
        parts = build_cpus(ncpu, pool, kernel, controller, psz_strategy=psz_strategy)
        self.kernel = kernel
        self.is_giant_locked = is_giant_locked(kernel)
        self.seed = seed
        self.controller = parts.controller
        self.softint_table = parts.softints
        self.giant = parts.giant
        self.psz = parts.psz
        self.cpus: Sequence[Cpu] = parts.cpus
        self._start_ns = time.monotonic_ns()
        self._timers = TimerHeap()
        self._local = threading.local()
        self._control_lock = threading.RLock()
        self._users_lock = threading.Lock()
        self._users = 0  # threads that want the CPUs to work; guarded by _users_lock
        self._is_started = False
        self._errors: list[BaseException] = []
        self._lwps: list[WallLwp] = []
        self._lwps_lock = threading.Lock()
        self._is_closed = False
        self._pid = os.getpid()
        processors = sorted(os.sched_getaffinity(0)) if pin else []
        self._threads: list[WallCpu] = []
        for cpu in self.cpus:
            cpu.machine = self
            processor = processors[cpu.index % len(processors)] if processors else -1
            self._threads.append(WallCpu(cpu, -self._start_ns, processor, self._serve_python))
            self.psz.idle(cpu.index, True)

    # Time.

    def now_ns(self) -> int:
        """Nanoseconds since the machine was made."""
        return time.monotonic_ns() - self._start_ns

    def curcpu(self) -> Cpu | None:
        """The CPU the calling thread runs handlers of; None in control threads."""
        return getattr(self._local, "cpu", None)

    def charge(self, what: str, n: int = 1, nbytes: int = 0) -> None:
        """Nothing: time passes by itself here."""

    def at(self, when_ns: int, fn: Callable[[], object], background: bool = False) -> WallTimer:
        """Call ``fn`` at a machine time, from the thread that runs the machine."""
        return self._timers.add(int(when_ns), fn, background)

    # Waiting.

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        """Wait until a condition holds; a machine at rest is run meanwhile.

        Raises: NetstackError -- ETIMEDOUT; EDEADLK from a handler, which cannot wait.
        """
        cpu = self.curcpu()
        if cpu is not None:
            raise NetstackError(EDEADLK, f"{cpu!r} cannot wait for {what}; only threads may")
        if self.lockdebug is not None:
            self.lockdebug.sleepable(what)
        if condition():
            return
        held = self.kernel_lock.release_all()
        self._enter()
        lwp = curlwp()
        try:
            lwp.rests_from_ns = time.monotonic_ns() + SETTLE_NS
            deadline_ns = time.monotonic_ns() + round(timeout_s * NS_PER_S)
            while not condition():
                if time.monotonic_ns() > deadline_ns:
                    raise NetstackError(ETIMEDOUT, f"waited {timeout_s:g} s for {what}")
                self._serve_timers()
                time.sleep(POLL_S)
        finally:
            lwp.rests_from_ns = None
            self._leave()
            self.kernel_lock.reacquire(held)

    def cross_call(self, cpu_index: int, fn: Callable[[], object]) -> None:
        """Run ``fn`` while that CPU is between two handlers."""
        cpu = self.curcpu()
        if cpu is not None:
            raise NetstackError(EDEADLK, f"{cpu!r} cannot wait for CPU {cpu_index}")
        self._threads[cpu_index].paused(fn)

    def python_thread(self, cpu_index: int) -> int | None:
        """Identifier of the OS thread that runs a CPU's Python handlers."""
        return self._threads[cpu_index].python_ident

    def control_lock(self) -> AbstractContextManager[object]:
        """The lock of control operations: one at a time, whatever thread they come from."""
        return self._control_lock

    def spawn(self, fn: Callable[[], object], *, cpu: int = 0, name: str = "") -> WallLwp:
        """Start a kernel thread.  ``cpu`` is where it would like to run; the host decides.

        Raises: NetstackError -- EINVAL, no such CPU.
        """
        if not 0 <= cpu < len(self.cpus):
            raise NetstackError(EINVAL, f"no CPU {cpu}; there are {len(self.cpus)}")
        lwp = WallLwp(name or getattr(fn, "__name__", "lwp"), fn, self._errors.append)
        with self._lwps_lock:
            self._lwps = [other for other in self._lwps if not other.is_done]
            lwp.thread.start()  # before it is in the list: one that has not started looks done
            self._lwps.append(lwp)
        return lwp

    def sleep(self, seconds: float, background: bool = False) -> None:
        """Let the calling thread sleep."""
        if self.lockdebug is not None:
            self.lockdebug.sleepable("time to pass")
        held = self.kernel_lock.release_all()
        lwp = curlwp()
        lwp.rests_from_ns = time.monotonic_ns() if background else None
        time.sleep(seconds)
        lwp.rests_from_ns = None
        self.kernel_lock.reacquire(held)

    def new_lock(self, name: str) -> WallLock:
        """Make a lock; KERNEL_LOCK shares its word with the compiled loops."""
        return WallLock(name, self.giant if name == "KERNEL_LOCK" else None)

    def curlwp(self) -> WallLwp:
        """The calling thread."""
        return curlwp()

    def new_sleeper(self, what: str) -> WallSleeper:
        """Prepare a sleep of the calling thread."""
        return WallSleeper(self, what)

    def spin_while(
        self,
        may_spin: Callable[[], bool],
        is_free: Callable[[], bool],
        word: SpinLock | None = None,
        lock: Any = None,
    ) -> bool:
        """Spin for a lock; gives the GIL and the processor away all the time: the owner may need them."""
        end_ns = time.monotonic_ns() + SPIN_NS
        while not is_free():
            if not may_spin() or time.monotonic_ns() > end_ns:
                return False
            time.sleep(0)
        return True

    def spin_poll(self) -> None:
        """Nothing: spinners look all the time."""

    def drive(self, is_over: Callable[[], bool], deadline_ns: int | None) -> bool:
        """Run the machine and serve timed calls until ``is_over``, which waits a little, or the deadline.

        Context: control thread.   Returns: False when the deadline came first.
        """
        self._enter()
        try:
            while not is_over():
                if deadline_ns is not None and time.monotonic_ns() > deadline_ns:
                    return False
                self._serve_timers()
            return True
        finally:
            self._leave()

    def step_aside(self, what: str, is_over: Callable[[], bool], deadline_ns: int | None) -> bool:
        """Let a CPU go on without the softint handler that calls, until ``is_over``, which waits a little.

        Raises: NetstackError -- EDEADLK, the caller cannot wait; ENXIO, the machine was closed meanwhile.
        """
        cpu = self.curcpu()
        assert cpu is not None
        why = ""
        if cpu.context != "soft":
            why = "a hard interrupt cannot wait"
        elif cpu.mtx_count:
            why = f"it holds {cpu.mtx_count} spin mutex(es), and who spins for them waits with it"
        elif self.psz.in_section(cpu.index):
            why = "no waiting in a pserialize read section"
        if why:
            raise NetstackError(EDEADLK, f"{cpu!r} cannot wait for {what}: {why}")
        saved = (cpu.spl, cpu.context, cpu.handler)
        levels = sum(1 << level for level in self._local.levels)  # whoever is under the caller waits too
        cpu.soft_blocks[self._local.levels[-1]] += 1
        cpu.soft_blocked |= levels
        cpu.block.soft_blocked = cpu.soft_blocked
        cpu.spl, cpu.context, cpu.handler = 0, None, ""
        self._local.cpu = None
        try:
            return self._threads[cpu.index].step_aside(is_over, deadline_ns)
        finally:
            self._local.cpu = cpu
            cpu.spl, cpu.context, cpu.handler = saved
            cpu.soft_blocked &= ~levels
            cpu.block.soft_blocked = cpu.soft_blocked

    # Handlers in Python.

    def unmask(self, cpu: Cpu) -> None:
        """Run on the CPU, highest first, what the SPL of the Python handler that calls lets in now.

        On a GENERIC kernel that waits until the handler is done: compiled handlers want KERNEL_LOCK, which the
        handler holds, and do not know by whom it is held.
        """
        if self.curcpu() is not cpu or self.giant is not None:
            return
        block = cpu.block
        while True:
            if block.intr_pending:
                slots = [(self.intrs.ipl(cpu, slot), slot) for slot in block.intr_peek()]
                ipl, slot = max(slots, default=(0, -1))
                if ipl > cpu.spl and block.intr_clear(slot):
                    if not chain.hardint_run(block, slot):
                        self.intrs.deliver(cpu, slot)
                    continue
            if cpu.context == "hard":
                return
            block.softint_take_remote()
            if not self.softints.dispatch(cpu):
                return

    def softint_call(self, cpu: Cpu, level: int, handle: int) -> None:
        """Run a softint: compiled, or in the calling thread, which then stands for that of the level."""
        if chain.softint_run(cpu.block, handle):
            return
        self._local.levels = [*getattr(self._local, "levels", ()), level]
        try:
            self.softints.run_handle(cpu, handle)
        finally:
            self._local.levels.pop()

    def softint_resume(self, cpu: Cpu, level: int) -> None:
        """Nothing: a handler that had blocked goes on in its own thread."""

    def handler_starts(self, cpu: Cpu) -> None:
        """Nothing: there is no trace in wall time."""

    def handler_failed(self, cpu: Cpu, error: BaseException) -> None:
        """Keep an exception of a handler: ``run()`` raises it; the CPU goes on."""
        error.add_note(f"in {cpu.context} handler '{cpu.handler}' on CPU {cpu.index}")
        self._errors.append(error)

    def _serve_python(self, cpu: Cpu) -> None:
        """Run what waits for Python on a CPU whose loop is paused."""
        block = cpu.block
        block.now_ns = self.now_ns()
        self._local.cpu = cpu
        try:
            for _ in range(PYTHON_ROUNDS):
                done = self._serve_left_over(cpu)
                self.psz.switchpoint(cpu.index)
                if not done:
                    break
                chain.step(block, self.now_ns())
        finally:
            self._local.cpu = None

    def _serve_left_over(self, cpu: Cpu) -> int:
        """Run what the loop left for Python: interrupts, highest first, before each softint; how many."""
        block = cpu.block
        done = 0
        while True:
            slots = block.python_vectors()
            for slot in sorted(slots, key=lambda slot: -self.intrs.ipl(cpu, slot)):
                self.intrs.deliver(cpu, slot)
            handle = block.python_softint()
            if handle >= 0:
                self.softint_call(cpu, self.softint_table.level(handle), handle)
            elif not slots:
                return done
            done += len(slots) + (handle >= 0)

    # Running.

    def start(self) -> None:
        """Let the CPUs work until ``stop``, without a thread that waits for them.

        Timed calls are served by ``run`` and ``wait_until`` only.
        """
        self._check_usable()
        if not self._is_started:
            self._is_started = True
            self._enter()

    def stop(self) -> None:
        """Bring the CPUs to rest; what is pending stays pending."""
        if self._is_started:
            self._is_started = False
            self._leave()

    def run(self, seconds: float | None = None) -> None:
        """Let the CPUs work: until idle, or for so many seconds.

        Several threads may run it at once, or wait in control operations; it rests when the last is done.

        Raises: what a Python handler raised; NetstackError -- ENXIO, it is closed.
        """
        self._check_usable()
        self._enter()
        try:
            if seconds is None:
                self._wait_idle()
            else:
                self._pass_time(seconds)
        finally:
            self._leave()
        if self._errors:
            raise self._errors.pop(0)

    def kick(self, cpu_index: int) -> None:
        """Wake a CPU that may sleep."""
        self.controller.wake(cpu_index)

    def close(self) -> None:
        """End the machine's threads; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if os.getpid() != self._pid:
            return  # a forked child has no threads to end
        for thread in self._threads:
            thread.close()

    def _check_usable(self) -> None:
        if self._is_closed:
            raise NetstackError(ENXIO, "the machine is closed")
        if os.getpid() != self._pid:
            raise NetstackError(ENXIO, "the machine's threads stayed in the parent process")

    def _enter(self) -> None:
        """One more thread wants the CPUs to work; the first starts them."""
        with self._users_lock:
            self._users += 1
            if self._users == 1:
                for cpu in self.cpus:
                    self.psz.idle(cpu.index, False)
                for thread in self._threads:
                    thread.start()

    def _leave(self) -> None:
        """One thread less; the last brings the CPUs to rest."""
        with self._users_lock:
            self._users -= 1
            if self._users == 0:
                for thread in self._threads:
                    thread.stop()
                for cpu in self.cpus:
                    self.psz.idle(cpu.index, True)

    def _serve_timers(self) -> None:
        for timer in self._timers.take_due(self.now_ns()):
            timer.fn()

    def _pass_time(self, seconds: float) -> None:
        end_ns = self.now_ns() + round(seconds * NS_PER_S)
        while (now_ns := self.now_ns()) < end_ns and not self._errors:
            self._serve_timers()
            next_ns = self._timers.next_ns()
            until_ns = end_ns if next_ns is None else min(end_ns, max(next_ns, now_ns))
            time.sleep(min(max(until_ns - now_ns, 0) / NS_PER_S, 0.05))

    def _wait_idle(self) -> None:
        """Wait until no CPU has anything to do, in several looks: work moves between CPUs.

        A kernel thread counts as having something to do until it is done, sleeps, or has waited for
        a condition for long: as on the virtual machine, one that cannot go on does not keep this going.
        """
        quiet = 0
        before = -1
        me = curlwp()
        me.rests_from_ns = 0
        while quiet < QUIET_LOOKS and not self._errors:
            self._serve_timers()
            blocks = [cpu.block for cpu in self.cpus]
            is_quiet = all(block.is_idle for block in blocks) and not self._timers.has_foreground()
            is_quiet = is_quiet and not any(lwp.is_busy for lwp in list(self._lwps))
            done = sum(block.counters["loops"] for block in blocks)
            quiet = quiet + 1 if is_quiet and done == before else 0
            before = done
            time.sleep(POLL_S)
        me.rests_from_ns = None
