"""Spin lock words usable without the GIL, with contention counters (paper §3.1.1).

A spinner pauses with exponential back-off and after a while gives the processor away: there may be more virtual
CPUs than
processors, and a spinner must not keep the owner from running.
"""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.atomics cimport (ns_cas_u32, ns_load_u32, ns_store_u32, ns_xchg_u32, ns_pause, RELAXED, ACQREL,
                                     NS_IS_EXPLORE)

cdef extern from "sched.h" nogil:
    int sched_yield() noexcept

cdef struct spin_t:
    uint32_t word            # 0 free, 1 held
    uint32_t contended       # acquisitions that had to wait; written by the new owner only
    uint64_t acquired        # acquisitions; written by the owner only

cdef inline bint spin_try(spin_t *lock) noexcept nogil:
    """Take the lock if it is free; true on success."""
    if ns_load_u32(&lock.word, RELAXED) != 0 or ns_xchg_u32(&lock.word, 1) != 0:
        return False
    lock.acquired += 1
    return True

cdef inline void spin_enter(spin_t *lock) noexcept nogil:
    """Take the lock; busy-waits."""
    cdef uint32_t backoff = 1, _i, rounds = 0
    if ns_xchg_u32(&lock.word, 1) == 0:
        lock.acquired += 1
        return
    while True:
        for _i in range(backoff):
            ns_pause()
        if backoff < 64:
            backoff <<= 1
        else:
            rounds += 1
            if rounds & 15 == 0 and NS_IS_EXPLORE == 0:
                sched_yield()
        if ns_load_u32(&lock.word, RELAXED) == 0 and ns_xchg_u32(&lock.word, 1) == 0:
            lock.acquired += 1
            lock.contended += 1
            return

cdef inline void spin_exit(spin_t *lock) noexcept nogil:
    """Release: everything done under the lock is visible to the next owner."""
    ns_store_u32(&lock.word, 0, ACQREL)

cdef class SpinLock:
    cdef spin_t lock
