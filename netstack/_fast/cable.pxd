"""Frames on a cable, and how one meets a descriptor: the parts of the two engines of ``wire.pyx``."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from netstack._fast.atomics cimport (ns_load_ptr, ns_load_u32, ns_store_ptr, RELAXED, ns_count_u64, ns_store_u32,
                                     ns_add_u64, ACQREL)
from netstack._fast.dring cimport desc_t, DESC_DD, DESC_EOP
from netstack._fast.intr cimport intr_raise
from netstack._fast.lock cimport spin_enter, spin_exit
from netstack._fast.mutants cimport ns_mutant, MUT_RING_DONE_EARLY
from netstack._fast.wire cimport cframe_t, fifo_t, gen_t, hwrx_t, txport_t

cdef enum:
    HEADER_BYTES = 16            # of a generated frame: the Ethernet header and two bytes more
    PAUSE_NS = 100000            # a generator not run for so long: its CPU was taken away


cdef inline cframe_t *fifo_take(fifo_t *fifo) noexcept nogil:
    """Oldest frame or NULL; the lock is held."""
    cdef cframe_t *f = fifo.first
    if f != NULL:
        ns_store_ptr(&fifo.first, f.next, RELAXED)     # others look at it without the lock
        ns_store_u32(&fifo.n, fifo.n - 1, RELAXED)
    return f


cdef inline bint fifo_put(fifo_t *fifo, cframe_t *f) noexcept nogil:
    """Append; false when the limit is reached.  The lock is held."""
    if fifo.n >= fifo.limit:
        ns_count_u64(&fifo.refused, 1)
        return False
    f.next = NULL
    if fifo.first == NULL:
        ns_store_ptr(&fifo.first, f, RELAXED)
    else:
        fifo.last.next = f
    fifo.last = f
    ns_store_u32(&fifo.n, fifo.n + 1, RELAXED)
    ns_count_u64(&fifo.passed, 1)
    return True


cdef inline cframe_t *cframe_new(uint32_t nbytes) noexcept nogil:
    cdef cframe_t *f = <cframe_t *> malloc(sizeof(cframe_t) + nbytes)
    if f != NULL:
        f.nbytes = nbytes
        f.hash = 0
    return f


cdef inline uint32_t gen_run(hwrx_t *hw, gen_t *gen, uint32_t avail, uint64_t now_ns) noexcept nogil:
    """Frames a generator delivers now; called with the engine's lock held."""
    cdef uint32_t due = 0, n, i, at
    cdef double behind, until
    cdef desc_t *d
    cdef uint64_t late
    cdef bint was_paused = now_ns > gen.looked_ns + PAUSE_NS
    gen.looked_ns = now_ns
    if now_ns >= gen.stop_ns and gen.interval_ns == 0:
        return 0
    if gen.interval_ns == 0:
        due = avail
    else:
        until = <double> (now_ns if now_ns < gen.stop_ns else gen.stop_ns - 1)
        if until < gen.next_ns:
            return 0
        behind = (until - gen.next_ns) / gen.interval_ns + 1
        late = 0
        if behind > gen.burst_max:
            late = <uint64_t> behind - gen.burst_max
            if was_paused:
                ns_count_u64(&gen.paused, late)
            else:
                ns_count_u64(&gen.late, late)
        due = <uint32_t> (<uint64_t> behind - late)
        gen.next_ns += gen.interval_ns * <double> (due + late)
    n = due if due < avail else avail
    ns_count_u64(&gen.sent, due)
    ns_count_u64(&hw.missed, due - n)
    at = gen.at
    for i in range(n):
        d = &hw.desc[(hw.head + i) & hw.mask]
        if ns_mutant(MUT_RING_DONE_EARLY):
            ns_store_u32(&d.status, DESC_DD | DESC_EOP, ACQREL)
            ns_load_u32(&d.status, ACQREL)       # the driver may run here
        memcpy(d.addr, gen.header + at * HEADER_BYTES, HEADER_BYTES)
        d.nbytes = gen.nbytes
        ns_store_u32(&d.status, DESC_DD | DESC_EOP, ACQREL)
        at += 1
        if at == gen.nheaders:
            at = 0
    gen.at = at
    hw.head += n
    ns_count_u64(&hw.generated, n)
    return n


cdef inline uint32_t cable_run(hwrx_t *hw, uint32_t avail) noexcept nogil:
    """Move frames from the cable into descriptors; called with the engine's lock held."""
    cdef cframe_t *f
    cdef cframe_t *gone = NULL
    cdef desc_t *d
    cdef uint32_t n = 0
    spin_enter(&hw.cable.lock)
    while n < avail and hw.cable.first != NULL:
        f = fifo_take(hw.cable)
        if f.nbytes > hw.buffer_bytes:
            ns_count_u64(&hw.oversize, 1)
        else:
            d = &hw.desc[hw.head & hw.mask]
            memcpy(d.addr, f.data, f.nbytes)
            d.nbytes = f.nbytes
            ns_store_u32(&d.status, DESC_DD | DESC_EOP | <uint32_t> f.hash << 16, ACQREL)
            hw.head += 1
            n += 1
        f.next = gone
        gone = f
    spin_exit(&hw.cable.lock)
    while gone != NULL:
        f = gone
        gone = f.next
        free(f)
    return n


cdef inline uint32_t hwrx_step(hwrx_t *hw, uint64_t now_ns) noexcept nogil:
    """What hwrx_run does."""
    cdef uint32_t n = 0, avail
    spin_enter(&hw.lock)
    if hw.enabled == 0:
        spin_exit(&hw.lock)
        return 0
    avail = ns_load_u32(hw.tail, ACQREL) - hw.head
    if ns_load_ptr(&hw.cable.first, RELAXED) != NULL:
        n = cable_run(hw, avail)
    if hw.gen != NULL:
        n += gen_run(hw, hw.gen, avail - n, now_ns)
    ns_count_u64(&hw.received, n)
    spin_exit(&hw.lock)
    if n and hw.intr != NULL:
        intr_raise(hw.intr)
    return n


cdef inline void tx_to_cable(txport_t *port, desc_t *d) noexcept nogil:
    cdef cframe_t *f = cframe_new(d.nbytes)
    if f == NULL:
        ns_add_u64(&port.lost, 1)
        return
    memcpy(f.data, d.addr, d.nbytes)
    spin_enter(&port.fifo.lock)
    if not fifo_put(port.fifo, f):
        ns_add_u64(&port.lost, 1)
        free(f)
    spin_exit(&port.fifo.lock)
