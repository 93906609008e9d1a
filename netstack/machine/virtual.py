"""The deterministic machine: 1 to 64 CPUs on one OS thread, a seed, nanoseconds from a cost model.

A CPU has its own clock, SPL and pending words.  ``charge`` moves the clock on and is the
preemption point: whoever is earlier goes first, and then this CPU takes the interrupts its SPL lets
in, nested on what it was doing, as hardware does.  Softints run on top of threads when interrupt
context is left (``machine/virtual_threads.py``).  Threads are greenlets of their own and may wait.
Between two charges nothing else happens: what a handler does there is atomic.

Same seed, same run, to the byte: ``digest()`` tells.  Knows no networking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from errno import EDEADLK, EINVAL, ETIMEDOUT
from functools import partial
from typing import Any, Literal
from weakref import ref

from greenlet import GreenletExit, getcurrent, greenlet

from netstack._fast.intr import IntrController
from netstack._fast.mbuf import MbufPool
from netstack.errors import NetstackError
from netstack.machine.api import BigLock, Callouts, Cpu, Intrs, LockDebugger, Pserializer, Xcalls
from netstack.machine.costs import C2758, Costs
from netstack.machine.cpu import build_cpus, is_giant_locked
from netstack.machine.scheduler import NS_PER_S
from netstack.machine.trace import Activation, Trace
from netstack.machine.virtual_cpu import State, VirtualCpu, VirtualLwp, Waiter
from netstack.machine.virtual_lock import ControlLock, VirtualLock
from netstack.machine.virtual_threads import Threads

__all__ = ["VirtualEngine"]


class VirtualEngine(Threads):
    """See ``machine.api.Engine``; ``kern.attach`` has to follow.

    Args:   seed -- any integer.   costs -- None: the machine of the paper.
            psz_strategy -- the paper's two switch points by default, on every host.
    Raises: NetstackError -- EINVAL, see ``build_cpus``.
    """

    clock: Literal["wall", "virtual"] = "virtual"
    intrs: Intrs
    kernel_lock: BigLock
    pserialize: Pserializer
    callouts: Callouts
    xcalls: Xcalls
    lockdebug: LockDebugger | None = None
    sleepqs: Any
    patience_s: float | None = None

    def __init__(
        self,
        ncpu: int,
        pool: MbufPool,
        controller: IntrController | None = None,
        kernel: str = "NET_MPSAFE",
        seed: int = 0,
        costs: Costs | None = None,
        *,
        psz_strategy: str = "switch",
    ) -> None:
        super().__init__(seed)
        parts = build_cpus(
            ncpu, pool, kernel, controller, make=VirtualCpu, psz_strategy=psz_strategy
        )
        self.kernel = kernel
        self.is_giant_locked = is_giant_locked(kernel)
        self.controller = parts.controller
        self.softint_table = parts.softints
        self.giant = parts.giant
        self.psz = parts.psz
        self.cpus: Sequence[VirtualCpu] = parts.cpus
        self.costs = costs if costs is not None else C2758
        self._steps = self.costs.steps
        self.handoff_ns = round(self._steps["lock_handoff"].ns)
        self._trace = Trace()
        self._line_owner: VirtualCpu | None = None  # CPU that has the common lines
        self._line_free_ns = 0
        self._control_lock = ControlLock(self)
        for cpu in self.cpus:
            cpu.machine = self
            cpu.sibling = self.cpus[cpu.index ^ 1] if cpu.index ^ 1 < ncpu else None
            cpu.base = cpu.greenlet = greenlet(partial(_idle_loop, ref(self), cpu.index))
            self.psz.idle(cpu.index, True)

    # --- the clock of a CPU

    def charge(self, what: str, n: int = 1, nbytes: int = 0) -> None:
        """Move the current CPU's clock on by the cost of ``n`` times ``what``; preemption point.

        Context: any on a CPU, outside pserialize read sections; nothing without a CPU.
        Raises:  NetstackError -- EINVAL, a step that ``machine/costs.py`` does not know.
        """
        cpu = self._cpu
        if cpu is None or self._is_closed:
            return
        cost = self._steps.get(what)
        if cost is None:
            raise NetstackError(EINVAL, f"charge({what!r}): add it to machine/costs.py")
        if self.controller.cpus_pending:
            self._post(cpu.time)
        costs = self.costs
        ns = cost.ns * n + cost.byte_ns * nbytes
        sibling = cpu.sibling
        if sibling is not None and sibling.time + costs.sibling_window_ns > cpu.time:
            if sibling.work:
                ns *= costs.sibling
        if what == costs.line_step and n:
            ns += self._move_lines(cpu, n if costs.is_line_per_frame else 1)
        cpu.time += round(ns)
        cpu.work += n
        cpu.block.now_ns = cpu.time
        if cpu.time >= self._horizon:
            self._yield(cpu)
        if cpu.has_news:
            self._deliver(cpu)

    def _move_lines(self, cpu: VirtualCpu, times: int) -> float:
        """Time to get the lines that all forwarding CPUs write, if another CPU had them last."""
        if self._line_owner is cpu or self._line_owner is None:
            self._line_owner = cpu
            return 0.0
        self._line_owner = cpu
        start_ns = max(cpu.time, self._line_free_ns)
        self._line_free_ns = start_ns + round(self.costs.line_ns * times)
        return self._line_free_ns - cpu.time

    # --- interrupts and softints of a CPU

    def unmask(self, cpu: Cpu) -> None:
        """Run what the SPL of the current CPU lets in, highest first."""
        if cpu is self._cpu and not self._is_closed:
            self._deliver(self._cpu)

    def _deliver(self, cpu: VirtualCpu) -> None:
        block = cpu.block
        cpu.has_news = False
        while True:
            if block.intr_pending:
                slot = self._pick(cpu)
                if slot >= 0 and block.intr_clear(slot):
                    cpu.last_slot = slot
                    self.intrs.deliver(cpu, slot)
                    continue
            if cpu.context == "hard":
                return  # softints wait until interrupt context is left
            if self.softints.is_slow and cpu.curlwp is not cpu.idle_lwp:
                return  # until the thread gives the CPU up
            block.softint_take_remote()
            if not self.softints.dispatch(cpu):
                return

    def _pick(self, cpu: VirtualCpu) -> int:
        """Choose the pending slot of the highest level above the SPL; slots of a level in turn."""
        best, best_key = -1, (cpu.spl, 0)
        for slot in cpu.block.intr_peek():
            ipl = self.intrs.ipl(cpu, slot)
            key = (ipl, (cpu.last_slot - slot) & 0xFF)  # the slot after the last one is best
            if ipl > cpu.spl and (best < 0 or key > best_key):
                best, best_key = slot, key
        return best

    def handler_starts(self, cpu: Cpu) -> None:
        """Add the activation to the trace."""
        assert isinstance(cpu, VirtualCpu)
        self._trace.add(cpu.time, cpu.index, cpu.context or "idle", cpu.handler, cpu.work)

    def handler_failed(self, cpu: Cpu, error: BaseException) -> None:
        """Send an exception of a handler out of ``run()``, with where and when it happened."""
        if isinstance(error, GreenletExit) or self._is_closed:
            raise error
        assert isinstance(cpu, VirtualCpu)
        error.add_note(
            f"in {cpu.context} handler '{cpu.handler}' on CPU {cpu.index} at {cpu.time} ns"
        )
        self._fail(cpu, error)

    def spin(self, cpu: VirtualCpu, lock: VirtualLock) -> None:
        """Wait for a lock; come back when it was passed on, or after an interrupt."""
        cpu.state = State.SPIN
        cpu.spins_for = lock
        self._to_hub(cpu)
        if not lock.is_mine:
            self._deliver(cpu)

    def _take_news(self, cpu: VirtualCpu) -> None:
        self._deliver(cpu)

    def serve(self, cpu: VirtualCpu) -> None:
        """Do what a CPU has to do: interrupts, softints, threads, in this order, until it idles."""
        self.psz.idle(cpu.index, False)
        while not self._is_closed:
            self._deliver(cpu)
            if not cpu.runq:
                break
            self._run_lwp(cpu, cpu.runq.popleft())
        self.psz.idle(cpu.index, True)
        cpu.state = State.IDLE
        cpu.greenlet = cpu.base

    # --- threads

    def spawn(self, fn: Callable[[], object], *, cpu: int = 0, name: str = "") -> VirtualLwp:
        """Start a kernel thread on a CPU; it stays there.

        Raises: NetstackError -- EINVAL, no such CPU.
        """
        if not 0 <= cpu < len(self.cpus):
            raise NetstackError(EINVAL, f"no CPU {cpu}; there are {len(self.cpus)}")
        home = self.cpus[cpu]
        lwp = VirtualLwp(name or getattr(fn, "__name__", "lwp"), home, fn)
        lwp.greenlet = greenlet(lambda: self._lwp(home, lwp), parent=home.base)
        home.lwps.append(lwp)
        home.runq.append(lwp)
        self.wake(home, self.now_ns())
        return lwp

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        """Wait until a condition holds; see ``machine.api.Engine``.  Virtual seconds."""
        cpu = self._cpu
        if cpu is not None and (cpu.context != "thread" or cpu.lwp is None):
            raise NetstackError(EDEADLK, f"{cpu!r} cannot wait for {what}; only threads may")
        if self.lockdebug is not None:
            self.lockdebug.sleepable(what)
        if cpu is not None:
            self.check_may_block(cpu, what)
        held = self.kernel_lock.release_all()
        try:
            if cpu is None:
                self.wait_main(condition, what, timeout_s)
            elif not condition():
                self._wait_lwp(cpu, condition, what, timeout_s)
        finally:
            self.kernel_lock.reacquire(held)

    def sleep(self, seconds: float, background: bool = False) -> None:
        """Let a thread sleep; a background sleep does not keep ``run()`` going.

        Context: a thread made by ``spawn``.
        """
        cpu = self._cpu
        if cpu is None or cpu.lwp is None or cpu.context != "thread":
            raise NetstackError(EDEADLK, "only a thread may sleep; run(seconds=...) passes time")
        if self.lockdebug is not None:
            self.lockdebug.sleepable("time to pass")
        self.check_may_block(cpu, "time to pass")
        waiter = Waiter(cpu.lwp, lambda: False)
        held = self.kernel_lock.release_all()
        when_ns = cpu.time + round(seconds * NS_PER_S)
        self.at(when_ns, lambda: self.resume(waiter, when_ns), background)
        self._block(cpu, cpu.lwp, "time to pass")
        self.kernel_lock.reacquire(held)

    def cross_call(self, cpu_index: int, fn: Callable[[], object]) -> None:
        """Run ``fn`` while that CPU is between two handlers."""
        target = self.cpus[cpu_index]

        def is_done() -> bool:
            if target.context in ("hard", "soft"):
                return False
            fn()
            return True

        self.wait_until(is_done, f"CPU {cpu_index} to leave its handler")

    def _wait_lwp(
        self, cpu: VirtualCpu, condition: Callable[[], bool], what: str, timeout_s: float
    ) -> None:
        lwp = cpu.lwp
        assert lwp is not None
        waiter = Waiter(lwp, condition)

        def give_up() -> None:
            waiter.is_over = True

        timer = self.at(cpu.time + round(timeout_s * NS_PER_S), give_up, background=True)
        self._waiters.append(waiter)
        self._block(cpu, lwp, what)
        timer.cancel()
        if waiter.error is not None:
            raise waiter.error
        if waiter.is_over and not condition():
            raise NetstackError(ETIMEDOUT, f"{lwp.name} waited {timeout_s:g} s for {what}")

    def _block(self, cpu: VirtualCpu, lwp: VirtualLwp, what: str) -> None:
        """Give the CPU to others until ``resume``."""
        self.check_may_block(cpu, what)
        self.block(cpu, what)

    def _lwp(self, home: VirtualCpu, lwp: VirtualLwp) -> None:
        try:
            lwp.fn()
        except BaseException as error:
            lwp.is_done = True
            self.handler_failed(home, error)
        finally:
            lwp.is_done = True
            if not self._is_closed:
                home.lwps.remove(lwp)

    def _run_lwp(self, cpu: VirtualCpu, lwp: VirtualLwp) -> None:
        cpu.lwp, cpu.context, cpu.handler, cpu.spl = lwp, "thread", lwp.name, lwp.spl
        self.psz.switchpoint(cpu.index)
        self.handler_starts(cpu)
        self.charge("switch")
        assert lwp.greenlet is not None
        lwp.greenlet.switch()
        cpu.lwp, cpu.context, cpu.handler, cpu.spl = None, None, "", 0
        self.psz.switchpoint(cpu.index)

    # --- locks, reports, end

    def new_lock(self, name: str) -> VirtualLock:
        """Make a lock whose waiting takes virtual time."""
        return VirtualLock(self, name, self.handoff_ns)

    def python_thread(self, cpu_index: int) -> int | None:
        """None: all CPUs run on the thread that made the machine."""
        return None

    def control_lock(self) -> ControlLock:
        """The lock of control operations: one at a time, whoever does them."""
        return self._control_lock

    def trace(self, on: bool) -> None:
        """Keep a readable list of activations from now on, or stop; see ``activations``."""
        self._trace.keep = on

    @property
    def activations(self) -> Sequence[Activation]:
        """What ``trace(True)`` kept."""
        return self._trace.kept

    def digest(self) -> str:
        """Return a hex digest of everything that ran: the same for the same seed, on any host."""
        return self._trace.digest()

    def close(self) -> None:
        """End the machine: threads and handlers are unwound, nothing runs any more."""
        if self._is_closed:
            return
        self._is_closed = True
        for cpu in self.cpus:
            self._cpu = cpu  # whose locks are given back while it unwinds
            threads = [lwp.greenlet for lwp in (*cpu.soft_lwps.values(), *cpu.lwps)]
            for green in (cpu.greenlet, cpu.base, *threads):
                if green is not None and not green.dead:
                    with suppress(Exception):
                        green.throw(GreenletExit)
            cpu.lwps.clear()
        self._cpu = None
        self._waiters.clear()


def _idle_loop(engine_ref: ref[VirtualEngine], index: int) -> None:
    """What runs on the base greenlet of a CPU.

    What a suspended greenlet holds is out of the garbage collector's sight: an idle one holds no
    engine, so a machine at rest may be forgotten without ``close``.
    """
    while True:
        engine = engine_ref()
        if engine is None:
            return
        engine.serve(engine.cpus[index])
        del engine
        home = getcurrent().parent
        assert home is not None
        home.switch()
