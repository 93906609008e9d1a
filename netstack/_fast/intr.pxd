"""Interrupt sources: one MSI-X table entry, its mask, and the CPU it is routed to (paper §4.1, §5 Fig. 2).

``enabled`` and ``cause`` are the device's own mask and cause bit (EIMS, EICR of an 82576-class NIC); ``masked`` and
``pending`` are the MSI-X vector control mask and its PBA bit.  A cause that meets a mask waits; it is never lost.
"""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.defs cimport CPU_MAX, VECTOR_MAX, VECTOR_WORDS
from netstack._fast.atomics cimport (ns_load_u32, ns_store_u32, ns_xchg_u32, ns_load_u64, ns_or_u64, ns_and_u64,
                                     ns_add_u64, ns_fence, RELAXED, ACQREL)

from netstack._fast.mutants cimport (ns_mutant, MUT_WAKE_NO_FENCE, MUT_MSIX_NO_RECHECK, MUT_INTR_ENABLE_NO_CAUSE,
                                     MUT_UNMASK_NO_PENDING)

cdef extern from "unistd.h" nogil:
    long write(int fd, const void *buf, size_t n) noexcept

cdef struct lapic_t:             # one CPU's end: written by devices and other CPUs
    uint64_t pending[VECTOR_WORDS]
    uint64_t remote_soft[4]      # softint handles asked for by another CPU
    uint32_t sleeping            # 1: wake me through the eventfd
    int eventfd                  # -1 on the virtual machine
    uint32_t pad[14]

cdef struct intc_t:
    uint32_t ncpu
    uint32_t pad
    uint64_t cpus_pending        # CPUs with something pending; a hint the virtual machine reads
    lapic_t *lapic[CPU_MAX]

cdef struct intrsrc_t:
    uint32_t enabled
    uint32_t cause
    uint32_t masked
    uint32_t pending
    uint32_t route               # destination CPU << 16 | vector: message address and data, read as one
    uint32_t spare
    uint64_t raised              # messages sent
    intc_t *intc
    uint64_t pad[3]

cdef inline bint cpu_must_wake(lapic_t *lapic) noexcept nogil:
    """The CPU sleeps, and it is for the caller to wake it.  The caller has published the work before."""
    if not ns_mutant(MUT_WAKE_NO_FENCE):
        ns_fence()               # the work must be visible before sleeping is read
    return ns_load_u32(&lapic.sleeping, RELAXED) and ns_xchg_u32(&lapic.sleeping, 0)


cdef inline void cpu_wake(lapic_t *lapic) noexcept nogil:
    """Make a sleeping CPU look at its pending words."""
    cdef uint64_t one = 1
    if cpu_must_wake(lapic):
        write(lapic.eventfd, &one, 8)


cdef inline void intc_post(intc_t *intc, uint32_t cpu, uint32_t slot) noexcept nogil:
    """Deliver vector slot to a CPU."""
    cdef lapic_t *lapic = intc.lapic[cpu]
    ns_or_u64(&lapic.pending[slot >> 6], <uint64_t> 1 << (slot & 63))
    if lapic.eventfd >= 0:
        cpu_wake(lapic)
    else:
        ns_or_u64(&intc.cpus_pending, <uint64_t> 1 << cpu)   # one line for all CPUs: for the virtual machine only


cdef inline void msix_send(intrsrc_t *src) noexcept nogil:
    """Send the message, or remember it in the pending bit while the vector is masked."""
    if ns_load_u32(&src.masked, ACQREL):
        ns_xchg_u32(&src.pending, 1)
        if ns_mutant(MUT_MSIX_NO_RECHECK) or ns_load_u32(&src.masked, ACQREL) or ns_xchg_u32(&src.pending, 0) == 0:
            return
    ns_add_u64(&src.raised, 1)
    cdef uint32_t route = ns_load_u32(&src.route, ACQREL)
    intc_post(src.intc, route >> 16, route & 0xFFFF)


cdef inline void msix_mask(intrsrc_t *src) noexcept nogil:
    """Set the vector control mask bit: messages wait in the pending bit; one may still be on its way."""
    ns_xchg_u32(&src.masked, 1)


cdef inline void msix_unmask(intrsrc_t *src) noexcept nogil:
    """Clear the mask bit; a pending message is sent now."""
    ns_xchg_u32(&src.masked, 0)
    if not ns_mutant(MUT_UNMASK_NO_PENDING) and ns_xchg_u32(&src.pending, 0):
        msix_send(src)


cdef inline void msix_route(intrsrc_t *src, uint32_t cpu, uint32_t slot) noexcept nogil:
    """Program address and data.  The entry is masked, and no message is on its way."""
    ns_store_u32(&src.route, cpu << 16 | slot, ACQREL)


cdef inline void intr_raise(intrsrc_t *src) noexcept nogil:
    """Device: set the cause; send when enabled.  Sending disables (auto-mask) and clears the cause (auto-clear)."""
    ns_xchg_u32(&src.cause, 1)
    if ns_load_u32(&src.enabled, RELAXED) and ns_xchg_u32(&src.enabled, 0):
        ns_xchg_u32(&src.cause, 0)
        msix_send(src)


cdef inline void intr_enable(intrsrc_t *src) noexcept nogil:
    """Driver: unmask at the device; a cause that came meanwhile is sent now."""
    ns_xchg_u32(&src.enabled, 1)
    if not ns_mutant(MUT_INTR_ENABLE_NO_CAUSE) and ns_load_u32(&src.cause, RELAXED) and ns_xchg_u32(&src.enabled, 0):
        ns_xchg_u32(&src.cause, 0)
        msix_send(src)


cdef inline void intr_disable(intrsrc_t *src) noexcept nogil:
    """Driver: mask at the device."""
    ns_xchg_u32(&src.enabled, 0)

cdef class IntrController:
    cdef intc_t intc
    cdef uint32_t _cpu(self, cpu) except 0xFFFFFFFF
    cdef void *_memory

cdef class IntrSource:
    cdef intrsrc_t *src
    cdef readonly IntrController controller
