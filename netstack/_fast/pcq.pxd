"""pcq: bounded queue of many producers and one consumer, without a lock (NetBSD pcq(9)).

Indices run freely over 32 bits; ``& mask`` makes a slot.  A producer claims a slot by moving ``tail`` on, then fills
it; a
claimed slot that is not filled yet looks empty to the consumer, who learns of it by the producer's wake-up.
"""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.atomics cimport (ns_cas_u32, ns_load_ptr, ns_load_u32, ns_own_u32, ns_pause, ns_store_ptr,
                                     ns_store_u32, RELAXED, ACQREL)
from netstack._fast.kassert cimport KASSERT
from netstack._fast.mutants cimport ns_mutant, MUT_PCQ_CLAIM_NOT_ATOMIC, MUT_PCQ_HEAD_EARLY

cdef struct pcq_t:
    uint32_t tail                # next slot to claim; any producer
    uint32_t pad0[31]
    uint32_t head                # next slot to take; the consumer only
    uint32_t pad1[31]
    uint32_t mask                # slots - 1
    uint32_t maxitems            # it may hold, at most the slots
    void **slot                  # NULL: free, or claimed and not filled


cdef inline uint32_t pcq_len(pcq_t *q) noexcept nogil:
    """Items claimed and not taken; a hint while others are at work."""
    cdef uint32_t head = ns_load_u32(&q.head, ACQREL)    # before tail, so the difference is never below 0
    return ns_load_u32(&q.tail, ACQREL) - head


cdef inline bint pcq_claim(pcq_t *q, uint32_t tail) noexcept nogil:
    """Move tail on by one, if it still is where it was."""
    if ns_mutant(MUT_PCQ_CLAIM_NOT_ATOMIC):
        ns_store_u32(&q.tail, tail + 1, RELAXED)
        return True
    return ns_cas_u32(&q.tail, tail, tail + 1)


cdef inline bint pcq_put(pcq_t *q, void *item) noexcept nogil:
    """Append an item (not NULL), on any CPU; false when the queue is full."""
    cdef uint32_t tail, used
    KASSERT(item != NULL, b"pcq: NULL is no item")
    while True:
        tail = ns_load_u32(&q.tail, RELAXED)
        # Acquire: the consumer's emptying of a slot is seen before its index says that the slot is free.
        used = tail - ns_load_u32(&q.head, ACQREL)
        if used >= q.maxitems:
            if <int> used < 0:
                continue         # tail is old: the consumer is beyond it
            if tail == ns_load_u32(&q.tail, RELAXED):
                return False
            continue
        if pcq_claim(q, tail):
            ns_store_ptr(&q.slot[tail & q.mask], item, ACQREL)    # publishes what the item points to
            return True
        ns_pause()


cdef inline void *pcq_peek(pcq_t *q) noexcept nogil:
    """The oldest item, which stays; NULL when there is none.  The consumer only."""
    return ns_load_ptr(&q.slot[ns_own_u32(&q.head) & q.mask], ACQREL)


cdef inline void *pcq_get(pcq_t *q) noexcept nogil:
    """Take the oldest item; NULL when there is none, or its producer is not done.  The consumer only."""
    cdef uint32_t head = ns_own_u32(&q.head)
    cdef void *item = ns_load_ptr(&q.slot[head & q.mask], ACQREL)
    if item != NULL:
        if ns_mutant(MUT_PCQ_HEAD_EARLY):
            ns_store_u32(&q.head, head + 1, ACQREL)
        ns_store_ptr(&q.slot[head & q.mask], NULL, RELAXED)
        ns_store_u32(&q.head, head + 1, ACQREL)    # after the slot is empty: a producer may claim it from here on
    return item


cdef class Pcq:
    cdef pcq_t *q
    cdef uint32_t _setup(self, maxitems, start) except 0

cdef class ObjectPcq(Pcq):
    pass

cdef class FramePcq(Pcq):
    cdef object pool
