"""Software interrupts (paper §2.1, §3.3; NetBSD softint(9)).

A softint has a handler and a level; scheduled on a CPU, it runs there soon, once, however often it
was scheduled, when the CPU leaves interrupt context and its SPL is below the level.  Higher levels
go first, a level is a FIFO, and a level never runs inside itself on one CPU.

A handler may block on a mutex or rwlock that is held.  It may not wait for a condition, memory or a
grace period.  Each level has a thread on each CPU; a *fast* softint (the default) starts on top of
the thread it interrupts, which is pinned under it.  When it blocks, that thread goes on, and no
other handler of the level starts on the CPU until it has finished; ``blocks`` counts that.  *Slow*
softints, as on ports of NetBSD without fast ones, wait until the running thread gives up the CPU,
and cost a full switch; ``variant`` chooses for the machine.

The PENDING bits and FIFOs are in the compiled CPU block, as compiled handlers schedule softints
too.  A softint whose kind is compiled still has a Python handler: the wall machine runs the
compiled one in its loop, the virtual machine runs ``fn``.  There, compiled handlers are the fast
softints, and Python handlers, which run when their thread gets the interpreter, the slow ones.
"""

from collections.abc import Callable
from errno import EBUSY, EINVAL, ENOMEM
from typing import Any, Literal

from netstack._fast.queue import RxQueue, TxQueue
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from, run_handler
from netstack.kern.kernel_lock import KernelLock
from netstack.kern.spl import SOFTINT_IPL
from netstack.machine.api import Cpu, Engine, Softint

__all__ = ["LEVELS", "SOFTINT_NET", "Softint", "SoftintRegistry", "softint_schedule"]

LEVELS = ("clock", "bio", "net", "serial")
SOFTINT_NET = LEVELS.index("net")
SOFTINT_MAX = 256  # as in _fast/defs.pxd


class SoftintRegistry:
    """The softints of a machine."""

    def __init__(self, engine: Engine, kernel_lock: KernelLock) -> None:
        self.engine = engine
        self.kernel_lock = kernel_lock
        self._table = engine.softint_table
        self._by_handle: list[Softint | None] = [None] * SOFTINT_MAX
        self.is_slow = False

    @property
    def variant(self) -> Literal["fast", "slow"]:
        """How a softint gets the CPU from a thread; see the module's text."""
        return "slow" if self.is_slow else "fast"

    @variant.setter
    def variant(self, value: Literal["fast", "slow"]) -> None:
        """Choose; before anything runs.

        Raises: NetstackError -- EINVAL, no such variant, or slow ones on the wall machine, where
                the host decides; EBUSY, a softint ran already.
        """
        if value not in ("fast", "slow"):
            raise NetstackError(EINVAL, f"softint variant {value!r} is none of fast, slow")
        if value == "slow" and self.engine.clock == "wall":
            raise NetstackError(EINVAL, "softint variant slow: of the virtual machine only")
        if any(si is not None and si.runs for si in self._by_handle):
            raise NetstackError(EBUSY, "softint variant: choose before softints run")
        self.is_slow = value == "slow"

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
    ) -> Softint:
        """Make a softint; its handler is called as ``fn(arg)``.

        Context: thread or control thread.
        Args:    level -- a word of ``LEVELS`` or its index.   mpsafe -- False: under KERNEL_LOCK.
                 kind, queue -- the compiled handler of the wall machine, if there is one:
                 "rx", "bridge" or "tx".
        Raises:  NetstackError -- EINVAL, no such level; ENOMEM, all handles are taken.
        """
        assert_callable_from(self.engine, "softint_establish")
        index = LEVELS.index(level) if level in LEVELS else level
        if not isinstance(index, int) or not 0 <= index < len(LEVELS):
            raise NetstackError(EINVAL, f"softint level {level!r} is none of {', '.join(LEVELS)}")
        if all(self._by_handle[1:]):
            raise NetstackError(ENOMEM, f"softint {name}: all {SOFTINT_MAX - 1} handles are taken")
        is_alone = not self.kernel_lock.locks_of(mpsafe)
        if not is_alone and self.engine.giant is None:
            kind = "python"  # compiled handlers know no KERNEL_LOCK on a NET_MPSAFE kernel
        handle = self._table.add(index, is_alone, kind, queue)
        si = Softint(handle, index, fn, arg, mpsafe, name or f"soft{LEVELS[index]} {handle}")
        self._by_handle[handle] = si
        return si

    def disestablish(self, si: Softint) -> None:
        """Take a softint away; on return it is neither pending nor running on any CPU.

        Context: thread or control thread; waits.  A schedule that comes later is ignored.
        Raises:  NetstackError -- EINVAL, it is gone already.
        """
        assert_callable_from(self.engine, "softint_establish")
        if si.is_dead:
            raise NetstackError(EINVAL, f"softint {si.name} is disestablished already")
        si.is_dead = True
        waiting = list(self.engine.cpus)

        def is_quiet() -> bool:
            # Nothing new can be queued: one look at an empty FIFO settles a CPU for good.
            busy = [cpu for cpu in waiting if cpu.block.softint_is_pending(si.level)]
            waiting[:] = busy
            return not busy and si.active == 0

        self.engine.wait_until(is_quiet, f"softint {si.name} to finish on every CPU")
        for cpu in self.engine.cpus:
            self.engine.cross_call(cpu.index, lambda: None)
        self._by_handle[si.handle] = None
        self._table.remove(si.handle)

    def schedule(self, si: Softint) -> None:
        """Make a softint pending on the current CPU; nothing when it already is.

        Context: any on a CPU.  From a context below its level it runs before this returns.
        Raises:  NetstackError -- EINVAL, there is no current CPU: use ``schedule_cpu``.
        """
        cpu = self.engine.curcpu()
        if cpu is None:
            raise NetstackError(
                EINVAL, f"softint {si.name}: no current CPU; schedule_cpu(si, index) names one"
            )
        if si.is_dead:
            return
        cpu.block.softint_schedule(si.handle)
        if cpu.spl < SOFTINT_IPL[si.level]:
            self.engine.unmask(cpu)

    def schedule_cpu(self, si: Softint, cpu_index: int) -> None:
        """Make a softint pending on a CPU of choice, from anywhere.

        Context: any, control threads and device-side events included.
        """
        cpu = self.engine.curcpu()
        if cpu is not None and cpu.index == cpu_index:
            self.schedule(si)
        elif not si.is_dead:
            self.engine.cpus[cpu_index].block.softint_post_remote(si.handle)
            self.engine.kick(cpu_index)

    def may_run(self, cpu: Cpu) -> bool:
        """Say whether a softint is pending on ``cpu`` that its SPL lets through."""
        pending = cpu.block.softint_is_pending
        held_up = cpu.soft_blocked
        return any(
            cpu.soft_ready & 1 << level if held_up & 1 << level else pending(level)
            for level in range(len(LEVELS))
            if cpu.spl < SOFTINT_IPL[level]
        )

    def dispatch(self, cpu: Cpu, level: int | None = None) -> int:
        """Run what is pending on ``cpu`` above its SPL: highest level first, FIFO in a level.

        Context: ``cpu`` itself, not in a hard interrupt.
        Returns: handlers run.
        Cost:    one pserialize switch point at the end, if anything ran.
        Source:  NetBSD softint_execute(): KERNEL_LOCK is kept over consecutive handlers that want
                 it.  Here it is dropped after each: others' waiting times stay bounded.
        """
        block = cpu.block
        levels = (3, 2, 1, 0) if level is None else (level,)
        count = 0
        again = True
        while again:
            again = False
            for each in levels:
                if cpu.spl >= SOFTINT_IPL[each]:
                    break
                if cpu.soft_blocked & 1 << each:
                    if not cpu.soft_ready & 1 << each:
                        continue
                    self.engine.softint_resume(cpu, each)
                    count += 1
                    again = True
                    break
                handle = block.softint_next(each)
                if handle >= 0:
                    self.engine.softint_call(cpu, each, handle)
                    count += 1
                    again = True
                    break
        if count and not self.engine.psz.in_section(cpu.index):
            self.engine.psz.switchpoint(cpu.index)
        return count

    def run_handle(self, cpu: Cpu, handle: int) -> None:
        """Run the handler of a softint that was taken off its FIFO; nothing when it is gone.

        Context: ``cpu`` itself, on the thread of the level.  No switch point: that is for the end
                 of a dispatch.
        """
        si = self._by_handle[handle]
        if si is None or si.is_dead:
            return
        si.active += 1
        si.runs += 1
        blocks = cpu.soft_blocks[si.level]
        try:
            needs_lock = self.kernel_lock.locks_of(si.is_mpsafe)
            fn = self._run_locked if needs_lock else self._run_alone
            run_handler(self.engine, cpu, "soft", SOFTINT_IPL[si.level], si.name, fn, si)
        finally:
            si.active -= 1
            si.blocks += cpu.soft_blocks[si.level] - blocks

    def _run_alone(self, si: Softint) -> None:
        self.engine.charge("switch" if self.is_slow else "softint")
        si.fn(si.arg)

    def _run_locked(self, si: Softint) -> None:
        self.engine.charge("switch" if self.is_slow else "softint")
        locks = self.kernel_lock
        locks.enter()
        try:
            if si.level != SOFTINT_NET:
                si.fn(si.arg)
                return
            s = locks.softnet_enter()
            try:
                si.fn(si.arg)
            finally:
                locks.softnet_exit(s)
        finally:
            locks.exit()


def softint_schedule(si: Softint, cpu: Cpu) -> None:
    """Schedule on the current CPU, which the caller has at hand (NetBSD softint_schedule(9))."""
    cpu.block.softint_schedule(si.handle)
    if cpu.spl < SOFTINT_IPL[si.level]:
        cpu.machine.unmask(cpu)
