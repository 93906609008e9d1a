"""if_snd: the bounded send queue of one TX queue (paper §2.1, §5.4)."""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from netstack._fast.atomics cimport ns_count_u64, ns_load_u32, ns_store_u32, RELAXED, ACQREL
from netstack._fast.lock cimport spin_t, spin_enter, spin_exit
from netstack._fast.mbuf cimport mbuf_t, MbufPool, MbufVec

from netstack._fast.mutants cimport ns_mutant, MUT_IFQ_PUT_UNLOCKED

cdef struct ifqueue_t:
    spin_t lock                  # guards all below
    uint32_t head                # next to take; free-running
    uint32_t tail                # next to fill; free-running
    uint32_t mask                # ring size - 1
    uint32_t maxlen              # frames it may hold
    uint64_t enqueued
    uint64_t dropped
    mbuf_t **ring

cdef inline uint32_t ifq_len(ifqueue_t *q) noexcept nogil:
    """Frames held; exact for the lock's owner, a hint for others."""
    return ns_load_u32(&q.tail, ACQREL) - ns_load_u32(&q.head, ACQREL)


cdef inline uint32_t ifq_put_locked(ifqueue_t *q, mbuf_t **m, uint32_t n) noexcept nogil:
    """Append up to n frames in order; how many fitted."""
    cdef uint32_t tail = q.tail, room, at, first
    room = q.maxlen - (tail - q.head)
    if n > room:
        n = room
    at = tail & q.mask
    first = q.mask + 1 - at
    if first > n:
        first = n
    memcpy(&q.ring[at], m, first * sizeof(void *))
    memcpy(q.ring, m + first, (n - first) * sizeof(void *))
    ns_store_u32(&q.tail, tail + n, ACQREL)
    ns_count_u64(&q.enqueued, n)
    return n


cdef inline uint32_t ifq_get_locked(ifqueue_t *q, mbuf_t **m, uint32_t n) noexcept nogil:
    """Take up to n frames in order; how many there were."""
    cdef uint32_t head = q.head, have, at, first
    have = q.tail - head
    if n > have:
        n = have
    at = head & q.mask
    first = q.mask + 1 - at
    if first > n:
        first = n
    memcpy(m, &q.ring[at], first * sizeof(void *))
    memcpy(m + first, q.ring, (n - first) * sizeof(void *))
    ns_store_u32(&q.head, head + n, ACQREL)
    return n


cdef inline uint32_t ifq_put(ifqueue_t *q, mbuf_t **m, uint32_t n) noexcept nogil:
    """Append under the lock; the caller frees and counts what did not fit."""
    cdef uint32_t done
    if ns_mutant(MUT_IFQ_PUT_UNLOCKED):
        return ifq_put_locked(q, m, n)
    spin_enter(&q.lock)
    done = ifq_put_locked(q, m, n)
    ns_count_u64(&q.dropped, n - done)
    spin_exit(&q.lock)
    return done


cdef inline uint32_t ifq_get(ifqueue_t *q, mbuf_t **m, uint32_t n) noexcept nogil:
    """Take under the lock."""
    cdef uint32_t done
    if ifq_len(q) == 0:
        return 0
    spin_enter(&q.lock)
    done = ifq_get_locked(q, m, n)
    spin_exit(&q.lock)
    return done

cdef int ifq_init(ifqueue_t *q, object frames) except -1
cdef void ifq_destroy(ifqueue_t *q) noexcept

cdef class IfQueue:
    cdef ifqueue_t q
    cdef MbufPool owner
