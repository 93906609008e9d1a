"""Explorer scenarios of interrupts: softints against hard interrupts, posts from other CPUs, MSI-X masks and moves.

Each is a world, a setup, what each CPU does, and what must hold in the end; see ``explore.pyx`` for the table.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack._fast.atomics cimport (ns_load_u32, ns_load_u64, ns_store_u32, ns_xchg_u64, ns_add_u64, ns_and_u64,
                                     ns_pause, RELAXED, ACQREL)
from netstack._fast.cpu cimport (cpu_t, softent_t, softint_schedule, softint_next, softint_post, remote_take)
from netstack._fast.explorer cimport must
from netstack._fast.intr cimport (lapic_t, intc_t, intrsrc_t, intr_raise, intr_enable, msix_mask, msix_unmask,
                                  msix_route)
from netstack._fast.mutants cimport ns_mutant, MUT_SOFTINT_CLEAR_LATE, MUT_MOVE_UNMASKED, MUT_MOVE_NO_WAIT

cdef enum:
    NET = 2                      # softint level
    HANDLE_A = 5
    HANDLE_B = 6                 # in the same word of posted handles

# A softint whose work a hard interrupt of the same CPU brings, at any moment of its handler.

cdef struct soft_world_t:
    lapic_t lapic
    intc_t intc
    softent_t soft[128]
    uint64_t work
    uint64_t done
    uint64_t other
    uint64_t brought
    uint32_t active
    cpu_t cpu

cdef inline void soft_setup(void *world) noexcept nogil:
    cdef soft_world_t *w = <soft_world_t *> world
    memset(&w.lapic, 0, sizeof(lapic_t))
    w.lapic.eventfd = -1
    w.intc.lapic[0] = &w.lapic
    w.intc.cpus_pending = 0
    w.soft[HANDLE_A].level = NET
    w.soft[HANDLE_B].level = NET
    w.work = w.done = w.other = w.brought = 0
    w.active = 0
    w.cpu.index = 0
    w.cpu.lapic = &w.lapic
    w.cpu.intc = &w.intc
    w.cpu.soft = &w.soft[0]
    w.cpu.softq[NET].head = w.cpu.softq[NET].tail = 0
    w.cpu.soft_pending[HANDLE_A] = w.cpu.soft_pending[HANDLE_B] = 0

cdef inline void soft_handler(soft_world_t *w, int handle) noexcept nogil:
    """Take the work there is; a handler of one CPU never runs inside another of its level."""
    must(w.active == 0, b"softint: a handler runs inside another of its level")
    w.active = 1
    if handle == HANDLE_A:
        w.done += ns_xchg_u64(&w.work, 0)
    else:
        w.done += ns_xchg_u64(&w.other, 0)
    w.active = 0
    if ns_mutant(MUT_SOFTINT_CLEAR_LATE):
        ns_load_u64(&w.work, RELAXED)        # the handler's end: an interrupt may come here
        w.cpu.soft_pending[handle] = 0

cdef inline void soft_round(soft_world_t *w) noexcept nogil:
    """What a CPU does between hard interrupts."""
    cdef int handle
    remote_take(&w.cpu)
    while True:
        handle = softint_next(&w.cpu, NET)
        if handle < 0:
            return
        soft_handler(w, handle)

cdef inline void soft_hard_body(void *world, int cpu) noexcept nogil:
    cdef soft_world_t *w = <soft_world_t *> world
    cdef uint32_t _i
    if cpu == 1:
        return                               # a second CPU, idle: the scenario is about one
    for _i in range(3):
        ns_load_u64(&w.work, RELAXED)        # the thread below the softint: interrupts come here too
        soft_round(w)

cdef inline void soft_hard_intr(void *world, int cpu) noexcept nogil:
    """Hard handler: bring work, mark, schedule (paper §3.3)."""
    cdef soft_world_t *w = <soft_world_t *> world
    ns_add_u64(&w.work, 1)
    w.brought += 1
    softint_schedule(&w.cpu, HANDLE_A)

cdef inline void soft_hard_finish(void *world) noexcept nogil:
    cdef soft_world_t *w = <soft_world_t *> world
    soft_round(w)                            # what is pending runs before the CPU idles
    must(w.done == w.brought, b"softint: work is left, and no softint is pending")

# Softints asked for by two other CPUs, same word and another word.

cdef inline void soft_remote_body(void *world, int cpu) noexcept nogil:
    cdef soft_world_t *w = <soft_world_t *> world
    if cpu == 1:
        ns_add_u64(&w.work, 1)
        softint_post(&w.cpu, HANDLE_A)
        ns_add_u64(&w.work, 1)
        softint_post(&w.cpu, HANDLE_A)
    elif cpu == 2:
        ns_add_u64(&w.other, 1)
        softint_post(&w.cpu, HANDLE_B)
        ns_add_u64(&w.work, 1)
        softint_post(&w.cpu, HANDLE_A)
    else:
        while w.done != 4:                   # a lost post is a deadlock
            soft_round(w)
            if w.done != 4:
                ns_pause()

cdef inline void soft_remote_finish(void *world) noexcept nogil:
    cdef soft_world_t *w = <soft_world_t *> world
    must(w.done == 4, b"softint: posted work is lost")

# An MSI-X source: CPU 0 is the device, CPU 1 takes its interrupts, CPU 2 masks, moves it to another slot, unmasks.

cdef enum:
    SLOT_OLD = 3
    SLOT_NEW = 70
    CAUSES = 2

cdef struct msix_world_t:
    lapic_t lapic
    intc_t intc
    intrsrc_t source
    uint64_t work
    uint64_t done
    uint32_t bound               # slot that has the handler
    uint32_t running             # the handler runs
    uint32_t is_sending          # the device is inside intr_raise: a CPU that raises answers no cross-call
    uint32_t is_moved

cdef inline void msix_setup(void *world) noexcept nogil:
    cdef msix_world_t *w = <msix_world_t *> world
    memset(world, 0, sizeof(msix_world_t))
    w.lapic.eventfd = -1
    w.intc.lapic[1] = &w.lapic
    w.source.intc = &w.intc
    w.source.enabled = 1
    w.source.route = 1 << 16 | SLOT_OLD
    w.bound = SLOT_OLD

cdef inline void msix_device(msix_world_t *w) noexcept nogil:
    cdef uint32_t _i
    for _i in range(CAUSES):
        ns_add_u64(&w.work, 1)
        ns_store_u32(&w.is_sending, 1, RELAXED)
        intr_raise(&w.source)
        ns_store_u32(&w.is_sending, 0, ACQREL)

cdef inline bint msix_slot(msix_world_t *w, uint32_t slot) noexcept nogil:
    """Take a slot if it is pending; without a handler there the interrupt is lost."""
    cdef uint64_t bit = <uint64_t> 1 << (slot & 63)
    if ns_load_u64(&w.lapic.pending[slot >> 6], RELAXED) & bit == 0:
        return False
    ns_store_u32(&w.running, 1, RELAXED)
    ns_and_u64(&w.lapic.pending[slot >> 6], ~bit)
    if ns_load_u32(&w.bound, ACQREL) == slot:
        w.done += ns_xchg_u64(&w.work, 0)
        intr_enable(&w.source)
    ns_store_u32(&w.running, 0, ACQREL)
    return True

cdef inline void msix_handler(msix_world_t *w) noexcept nogil:
    while w.done != CAUSES or ns_load_u32(&w.is_moved, ACQREL) == 0:
        if not msix_slot(w, SLOT_OLD) and not msix_slot(w, SLOT_NEW):
            ns_pause()

cdef inline void msix_move(msix_world_t *w) noexcept nogil:
    """interrupt_distribute (paper §4.2): mask, wait for senders, wait until the old slot is quiet, move, unmask."""
    if not ns_mutant(MUT_MOVE_UNMASKED):
        msix_mask(&w.source)
    if not ns_mutant(MUT_MOVE_NO_WAIT):
        while ns_load_u32(&w.is_sending, ACQREL) or ns_load_u32(&w.running, ACQREL):
            ns_pause()           # a cross-call: whoever found the source open has sent by now
        while ns_load_u64(&w.lapic.pending[0], ACQREL) or ns_load_u32(&w.running, ACQREL):
            ns_pause()
    ns_store_u32(&w.bound, SLOT_NEW, ACQREL)
    msix_route(&w.source, 1, SLOT_NEW)
    msix_unmask(&w.source)

cdef inline void msix_body(void *world, int cpu) noexcept nogil:
    cdef msix_world_t *w = <msix_world_t *> world
    if cpu == 0:
        msix_device(w)
    elif cpu == 1:
        msix_handler(w)
    else:
        msix_move(w)
        ns_store_u32(&w.is_moved, 1, ACQREL)

cdef inline void mask_body(void *world, int cpu) noexcept nogil:
    """The same with a mask and an unmask, and no move."""
    cdef msix_world_t *w = <msix_world_t *> world
    if cpu == 2:
        msix_mask(&w.source)
        msix_unmask(&w.source)
        ns_store_u32(&w.is_moved, 1, ACQREL)
    else:
        msix_body(world, cpu)

cdef inline void msix_finish(void *world) noexcept nogil:
    cdef msix_world_t *w = <msix_world_t *> world
    must(w.done == CAUSES, b"interrupt: a cause was not served")
