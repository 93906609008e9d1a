"""Interrupt controller and MSI-X sources as objects (paper §4.1, §4.2, §5 Fig. 2).

Context: ``raise_`` is a device's call, ``enable``/``disable`` a driver's, ``route``/``mask``/``unmask`` the interrupt
code's (``kern/intr``).  All may be called from any thread; no interrupt is lost between them.
"""
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from netstack._fast.lines cimport own_lines


cdef class IntrController:
    """Where messages arrive: pending words of ``ncpu`` CPUs."""

    def __cinit__(self, ncpu: int):
        cdef uint32_t i
        if not 1 <= ncpu <= CPU_MAX:
            raise ValueError(f"ncpu must be 1..{CPU_MAX}, not {ncpu}")
        assert sizeof(lapic_t) == 128
        self._memory = calloc(1, <size_t> ncpu * sizeof(lapic_t) + 128)
        if self._memory == NULL:
            raise MemoryError()
        self.intc.ncpu = ncpu
        for i in range(ncpu):
            self.intc.lapic[i] = (<lapic_t *> ((<uintptr_t> self._memory + 127) & ~(<uintptr_t> 127))) + i
            self.intc.lapic[i].eventfd = -1

    def __dealloc__(self):
        free(self._memory)

    cdef uint32_t _cpu(self, cpu) except 0xFFFFFFFF:
        if not 0 <= cpu < self.intc.ncpu:
            raise IndexError(f"no CPU {cpu}")
        return cpu

    @property
    def ncpu(self) -> int:
        return self.intc.ncpu

    @property
    def cpus_pending(self) -> int:
        """Bit per CPU that got something since ``clear_pending_hint``."""
        return ns_load_u64(&self.intc.cpus_pending, ACQREL)

    def clear_pending_hint(self, cpu: int) -> None:
        ns_and_u64(&self.intc.cpus_pending, ~(<uint64_t> 1 << self._cpu(cpu)))

    def set_eventfd(self, cpu: int, fd: int) -> None:
        """Descriptor that wakes the CPU's thread; -1 for none."""
        self.intc.lapic[self._cpu(cpu)].eventfd = fd

    def wake(self, cpu: int) -> None:
        """Make a sleeping CPU look around."""
        cdef lapic_t *lapic = self.intc.lapic[self._cpu(cpu)]
        if lapic.eventfd >= 0:
            cpu_wake(lapic)

    def post(self, cpu: int, slot: int) -> None:
        """Deliver a vector, as a message from a device would."""
        if not 0 <= slot < VECTOR_MAX:
            raise IndexError(f"no interrupt slot {slot}")
        intc_post(&self.intc, self._cpu(cpu), slot)


cdef class IntrSource:
    """One MSI-X table entry with its device-side mask and cause bit."""

    def __cinit__(self, IntrController controller not None):
        self.controller = controller
        self.src = <intrsrc_t *> own_lines(sizeof(intrsrc_t))
        self.src.intc = &controller.intc
        self.src.masked = 1              # reset value of the vector control mask bit

    def __dealloc__(self):
        free(self.src)

    @property
    def cpu(self) -> int:
        return self.src.route >> 16

    @property
    def slot(self) -> int:
        return self.src.route & 0xFFFF

    @property
    def masked(self) -> bool:
        return self.src.masked != 0

    @property
    def pending(self) -> bool:
        return self.src.pending != 0

    @property
    def enabled(self) -> bool:
        return self.src.enabled != 0

    @property
    def cause(self) -> bool:
        return self.src.cause != 0

    @property
    def raised(self) -> int:
        """Messages sent."""
        return self.src.raised

    def route(self, cpu: int, slot: int) -> None:
        """Program address and data: destination CPU and vector.  The entry should be masked."""
        if not 0 <= slot < VECTOR_MAX:
            raise IndexError(f"no interrupt slot {slot}")
        msix_route(self.src, self.controller._cpu(cpu), <uint32_t> slot)

    def mask(self) -> None:
        """Set the vector control mask bit: messages wait in the pending bit."""
        msix_mask(self.src)

    def unmask(self) -> None:
        """Clear it; a pending message is sent now."""
        msix_unmask(self.src)

    def enable(self) -> None:
        """Device mask off (EIMS); a cause that came meanwhile is sent now."""
        intr_enable(self.src)

    def disable(self) -> None:
        """Device mask on (EIMC)."""
        intr_disable(self.src)

    def take_cause(self) -> bool:
        """Clear the cause and the pending bit, as reading a cause register does; say whether one was set."""
        cause = ns_xchg_u32(&self.src.cause, 0)
        return (ns_xchg_u32(&self.src.pending, 0) | cause) != 0

    def raise_(self) -> None:
        """Device: set the cause bit."""
        intr_raise(self.src)

    def __repr__(self):
        state = "masked" if self.src.masked else "open"
        return f"<IntrSource CPU {self.cpu} slot {self.slot} {state}, {self.src.raised} sent>"
