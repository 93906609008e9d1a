"""Interrupt handlers, and which CPU they run on (paper §2.3.1, §4.2; NetBSD intr(9), intrctl(8)).

A source (an MSI-X vector, an INTx line) is bound to a slot of one CPU.  By default that is CPU 0, as
on the kernel the paper started from, or CPUs in turn where the machine asks for it; ``distribute``
moves it, keeps the counts of every CPU, and loses nothing: a message that comes while the vector is
masked waits in its pending bit.

A line may have several handlers; they run in the order of their levels, highest first, and each says
whether the interrupt was its own.  A line that nobody recognises for long is masked and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOMEM, ENOTSUP
from typing import Any

from netstack._fast.queue import RxQueue, TxQueue
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from, run_handler
from netstack.kern.kernel_lock import KernelLock
from netstack.kern.spl import IPL
from netstack.machine.api import Cpu, Engine, IntrHandle, IntrRow, Vector

__all__ = ["IntrHandle", "IntrRegistry", "IntrRow"]

VECTOR_MAX = 256  # as in _fast/defs.pxd
UNCLAIMED_MAX = 1000  # activations in a row that no handler of a shared line recognises


class IntrRegistry:
    """The interrupt handlers of a machine."""

    def __init__(self, engine: Engine, kernel_lock: KernelLock) -> None:
        self.engine = engine
        self.kernel_lock = kernel_lock
        self._slots: list[list[IntrHandle | None]] = [[None] * VECTOR_MAX for _ in engine.cpus]
        self._handles: list[IntrHandle] = []  # in the order they were established
        self._shielded: list[bool] = [False] * len(engine.cpus)
        self._reserved: set[tuple[int, int]] = set()  # (CPU, slot) kept for messages of one device
        self._next_cpu = 0
        self.masked_lines: list[str] = []  # lines that nobody recognised for long
        self.is_round_robin = False  # bind new sources to CPUs in turn, as FreeBSD does
        self.stray = 0  # interrupts that found no handler, or that no handler recognised

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
    ) -> IntrHandle:
        """Bind a source to a handler, called as ``fn(arg)`` at ``ipl`` on ``cpu``.

        On a shared line a handler returns False when its device did not interrupt; a second handler
        joins the first where that is.

        Context: thread or control thread.
        Args:    ipl -- ``IPL.VM`` and above.   mpsafe -- False: under KERNEL_LOCK.
                 kind, queue, softint -- the compiled handler of the wall machine, if there is
                 one: "softdrv" or "classic".
                 cpu -- where it goes; a shielded one yields to the lowest that is not.
                 slot -- one that ``reserve`` gave; None: the lowest that is free.
        Raises:  NetstackError -- EINVAL, no such CPU, or a level of softints; EEXIST, the name is
                 in use; EBUSY, no slot is free there, or the source is not to be shared.
        """
        assert_callable_from(self.engine, "interrupt_distribute")
        if not 0 <= cpu < len(self._slots):
            raise NetstackError(EINVAL, f"{name}: no CPU {cpu}; there are {len(self._slots)}")
        if ipl < IPL.VM:
            raise NetstackError(EINVAL, f"{name}: IPL {ipl} is for softints; use IPL.VM or above")
        if any(ih.name == name for ih in self._handles):
            raise NetstackError(EEXIST, f"{name}: an interrupt of that name is established")
        first = next((ih for ih in self._handles if ih.source is source), None)
        if first is not None:
            return self._join(first, name, int(ipl), fn, arg, mpsafe)
        if slot is None:
            if self.is_round_robin:
                cpu, self._next_cpu = self._next_cpu, (self._next_cpu + 1) % len(self._slots)
            if self._shielded[cpu]:
                cpu = self._lowest_open(name)
            slot = self._free_slot(cpu, name)
        elif self._slots[cpu][slot] is not None:
            raise NetstackError(EBUSY, f"{name}: slot {slot} of CPU {cpu} is in use")
        intrid = intrid or f"intr{len(self._handles)} {name}"
        is_alone = not self.kernel_lock.locks_of(mpsafe)
        if not is_alone and self.engine.giant is None:
            kind = "python"  # compiled handlers know no KERNEL_LOCK on a NET_MPSAFE kernel
        ih = IntrHandle(
            name, intrid, source, int(ipl), fn, arg, mpsafe, kind, queue, softint, cpu, slot
        )
        source.mask()
        self._install(ih, cpu, slot)
        self._handles.append(ih)
        source.unmask()
        return ih

    def disestablish(self, ih: IntrHandle) -> None:
        """Take a handler away; on return it is not running and will not run.

        Context: thread or control thread; waits.
        """
        assert_callable_from(self.engine, "interrupt_distribute")
        if ih not in self._handles:
            raise NetstackError(ENOENT, f"{ih.name}: no such interrupt; it is gone already")
        first = ih.first or ih
        self._mask(first)
        self._quiesce(first)
        if first is not ih or first.others:
            self.engine.cross_call(first.cpu, lambda: self._leave(first, ih))
            first.source.unmask()
        else:
            self.engine.cross_call(ih.cpu, lambda: self._remove(ih))
        self._handles.remove(ih)

    def reserve(self, count: int, name: str) -> tuple[int, int]:
        """Keep ``count`` (a power of two) contiguous, aligned slots on one CPU; return CPU and first.

        For the messages of an MSI device.   Raises: NetstackError -- ENOMEM, there is no such run.
        """
        for cpu, slots in enumerate(self._slots):
            if self._shielded[cpu]:
                continue
            for first in range(0, VECTOR_MAX, count):
                run = range(first, first + count)
                if all(slots[slot] is None and (cpu, slot) not in self._reserved for slot in run):
                    self._reserved.update((cpu, slot) for slot in run)
                    return cpu, first
        raise NetstackError(ENOMEM, f"{name}: no {count} contiguous interrupt slots are free")

    def unreserve(self, cpu: int, first: int, count: int) -> None:
        """Give back what ``reserve`` kept and nobody established."""
        self._reserved.difference_update((cpu, first + i) for i in range(count))

    def distribute(self, ih: IntrHandle, cpus: int | Iterable[int]) -> tuple[int, ...]:
        """Move an interrupt to the lowest CPU of a set; return the CPUs it was on.

        Context: thread or control thread; waits until nothing is pending on the old CPU.
        Raises:  NetstackError -- EINVAL, no such CPU, or a shielded one; EBUSY, no slot free there;
                 ENOENT, the interrupt is gone.
        Source:  paper §4.2; NetBSD intr_distribute_handler(): mask, wait, move, unmask.
        """
        assert_callable_from(self.engine, "interrupt_distribute")
        wanted = sorted({cpus} if isinstance(cpus, int) else {int(cpu) for cpu in cpus})
        if ih not in self._handles:
            raise NetstackError(ENOENT, f"{ih.name}: no such interrupt; it is gone")
        ih = ih.first or ih
        if getattr(ih.source, "is_fixed", False):
            text = "messages of one MSI device move together or not at all"
            raise NetstackError(ENOTSUP, f"{ih.name}: {text}; use MSI-X")
        if not wanted or not 0 <= wanted[0] < len(self._slots):
            raise NetstackError(EINVAL, f"{ih.name}: no CPU {wanted}; there are {len(self._slots)}")
        new = wanted[0]
        if self._shielded[new]:
            raise NetstackError(EINVAL, f"{ih.name}: CPU {new} takes no interrupts; 'intr' first")
        old = ih.cpu
        if new == old:
            return (old,)
        slot = self._free_slot(new, ih.name)
        self._slots[new][slot] = ih  # nobody else may take it while we wait
        self._mask(ih)
        try:
            self._quiesce(ih)
        except NetstackError:
            self._slots[new][slot] = None
            ih.source.unmask()
            raise
        left: list[bool] = []
        self.engine.cross_call(old, lambda: left.append(self._remove(ih)))
        self.engine.cross_call(new, lambda: self._install(ih, new, slot))
        if any(left):
            self.engine.controller.post(new, slot)
        ih.source.unmask()
        return (old,)

    def list(self) -> Sequence[IntrRow]:
        """Return one row per interrupt, in the order they were established."""
        return [
            IntrRow(_names(ih), ih.intrid, self._counts(ih), (ih.cpu,), _devices(ih))
            for ih in self._handles
            if ih.first is None
        ]

    def find(self, name: str) -> IntrHandle:
        """Return the interrupt of a name (``wm0 RX1``) or an id (``msix0 vec 3``).

        Raises: NetstackError -- ENOENT.
        """
        for ih in self._handles:
            if name in (ih.name, ih.intrid):
                return ih
        raise NetstackError(ENOENT, f"{name}: no such interrupt; 'intrctl list' shows them")

    def set_intr(self, cpu: int, allowed: bool) -> None:
        """Let a CPU take interrupts, or shield it and move those it has to the lowest other CPU.

        Context: thread or control thread; waits.
        Raises:  NetstackError -- EINVAL, no such CPU; ENOENT, no CPU is left (the shield stays).
        Source:  intrctl(8) intr and nointr; ``intr`` moves nothing back.
        """
        if not 0 <= cpu < len(self._slots):
            raise NetstackError(EINVAL, f"no CPU {cpu}; there are {len(self._slots)}")
        self._shielded[cpu] = not allowed
        if allowed:
            return
        for ih in [ih for ih in self._handles if ih.cpu == cpu and ih.first is None]:
            self.distribute(ih, self._lowest_open(ih.name))

    def is_intr(self, cpu: int) -> bool:
        """Say whether a CPU takes interrupts."""
        return not self._shielded[cpu]

    def ipl(self, cpu: Cpu, slot: int) -> int:
        """Return the level of what is bound to a slot; a stray interrupt counts as IPL_HIGH."""
        ih = self._slots[cpu.index][slot]
        if ih is None:
            return int(IPL.HIGH)
        return min(each.ipl for each in (ih, *ih.others)) if ih.others else ih.ipl

    def deliver(self, cpu: Cpu, slot: int) -> None:
        """Run the handler of an interrupt that was taken off the pending word.

        Context: ``cpu`` itself, with its SPL below the handler's IPL.  Softints that became
                 runnable are the caller's to dispatch when interrupt context is left.
        """
        ih = self._slots[cpu.index][slot]
        if ih is None or ih.cpu != cpu.index:
            self.stray += 1
            return
        cpu.block.count_one(slot)
        ih.active += 1
        try:
            if getattr(ih.source, "is_shared", False):
                self._deliver_line(cpu, ih)
            else:
                self._run(cpu, ih, self._fn_of(ih))
        finally:
            ih.active -= 1

    def _deliver_line(self, cpu: Cpu, first: IntrHandle) -> None:
        """Run the handlers of a shared line until the line is quiet or the next activation."""
        first.unclaimed += 1
        for ih in sorted((first, *first.others), key=lambda each: -each.ipl):

            self._run(cpu, ih, self._claim)
        if first.unclaimed:
            self.stray += 1
        if first.unclaimed >= UNCLAIMED_MAX:
            first.source.mask()
            first.unclaimed = 0
            self.masked_lines.append(first.intrid)
        else:
            first.source.eoi()  # type: ignore[attr-defined]

    def _claim(self, ih: IntrHandle) -> None:
        """Run one handler of a line; False from it: the interrupt was another's."""
        if self._fn_of(ih)(ih) is not False:
            (ih.first or ih).unclaimed = 0

    def _run(self, cpu: Cpu, ih: IntrHandle, fn: Callable[[IntrHandle], object]) -> None:
        run_handler(self.engine, cpu, "hard", ih.ipl, ih.name, fn, ih)

    def _fn_of(self, ih: IntrHandle) -> Callable[[IntrHandle], object]:
        needs_lock = self.kernel_lock.locks_of(ih.is_mpsafe)
        return self._run_locked if needs_lock else self._run_alone

    def _run_alone(self, ih: IntrHandle) -> object:
        self.engine.charge("hardintr")
        return ih.fn(ih.arg)

    def _run_locked(self, ih: IntrHandle) -> object:
        self.engine.charge("hardintr")
        self.kernel_lock.enter()
        try:
            return ih.fn(ih.arg)
        finally:
            self.kernel_lock.exit()

    def _join(
        self, first: IntrHandle, name: str, ipl: int, fn: Callable[[Any], object], arg: Any, mpsafe: bool
    ) -> IntrHandle:
        """Add a handler to a source that has one.  No compiled handler knows how to share."""
        if not getattr(first.source, "is_shared", False) or first.kind != "python":
            raise NetstackError(EBUSY, f"{name}: {first.intrid} has the handler of {first.name}")
        ih = IntrHandle(
            name, first.intrid, first.source, ipl, fn, arg, mpsafe, "python", None, 0, first.cpu, first.slot
        )
        ih.first = first
        self._handles.append(ih)
        self.engine.cross_call(first.cpu, lambda: first.others.append(ih))
        return ih

    def _leave(self, first: IntrHandle, ih: IntrHandle) -> None:
        """Take a handler out of a chain, on the chain's CPU; its source is masked and quiet."""
        if ih is not first:
            first.others.remove(ih)
            return
        heir, *rest = first.others
        heir.first, heir.others = None, rest
        heir.cpu, heir.slot, heir.saved = first.cpu, first.slot, first.saved
        for other in rest:
            other.first = heir
        self._slots[first.cpu][first.slot] = heir

    def _mask(self, ih: IntrHandle) -> None:
        """Mask a source and wait for senders that had found it open: a CPU may be one."""
        ih.source.mask()
        for cpu in self.engine.cpus:
            self.engine.cross_call(cpu.index, _nothing)

    def _quiesce(self, ih: IntrHandle) -> None:
        """Wait until the CPU of ``ih`` has nothing pending from it and is not inside it."""
        block, slot = self.engine.cpus[ih.cpu].block, ih.slot
        self.engine.wait_until(
            lambda: slot not in block.intr_peek() and ih.active == 0,
            f"{ih.name} to finish on CPU {ih.cpu}",
        )

    def _install(self, ih: IntrHandle, cpu: int, slot: int) -> None:
        block = self.engine.cpus[cpu].block
        block.bind(slot, ih.kind, ih.queue, ih.softint)
        block.set_count(slot, ih.saved.pop(cpu, 0))
        self._slots[cpu][slot] = ih
        ih.cpu, ih.slot = cpu, slot
        ih.source.route(cpu, slot)

    def _remove(self, ih: IntrHandle) -> bool:
        """Take a handler off its CPU; True: the CPU had taken a message for it that it had not served yet."""
        block = self.engine.cpus[ih.cpu].block
        # The compiled loop takes a message off the pending word and leaves it to the Python thread.
        taken = block.python_vectors()
        for slot in taken:
            if slot != ih.slot:
                self.engine.controller.post(ih.cpu, slot)  # another's: as before
        ih.saved[ih.cpu] = block.count(ih.slot)
        block.unbind(ih.slot)
        self._slots[ih.cpu][ih.slot] = None
        return ih.slot in taken

    def _counts(self, ih: IntrHandle) -> tuple[int, ...]:
        live = self.engine.cpus[ih.cpu].block.count(ih.slot)
        ncpu = len(self._slots)
        return tuple(live if i == ih.cpu else ih.saved.get(i, 0) for i in range(ncpu))

    def _free_slot(self, cpu: int, name: str) -> int:
        for slot, ih in enumerate(self._slots[cpu]):
            if ih is None and (cpu, slot) not in self._reserved:
                return slot
        raise NetstackError(EBUSY, f"{name}: CPU {cpu} has no free interrupt slot; choose another")

    def _lowest_open(self, name: str) -> int:
        for cpu, is_shielded in enumerate(self._shielded):
            if not is_shielded:
                return cpu
        raise NetstackError(ENOENT, f"{name}: no CPU takes interrupts; 'intr' lets one")


def _names(ih: IntrHandle) -> str:
    """Return the names of all handlers of a source."""
    return ", ".join(each.name for each in (ih, *ih.others))


def _devices(ih: IntrHandle) -> str:
    """Return the device parts of the names on a source: ``wm0`` of ``wm0 RX1``; several with commas."""
    return ", ".join(dict.fromkeys(each.name.partition(" ")[0] for each in (ih, *ih.others)))


def _nothing() -> None:
    """Work of a cross-call that only waits."""
