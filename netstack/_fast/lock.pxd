"""Spin lock words usable without the GIL, with contention counters (paper §3.1.1).

A spinner pauses with exponential back-off and after a while gives the processor away: there may be more virtual
CPUs than
processors, and a spinner must not keep the owner from running.
"""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.atomics cimport (ns_count_u32, ns_count_u64, ns_cas_u32, ns_load_u32, ns_read_u32, ns_store_u32,
                                     ns_xchg_u32, ns_pause, RELAXED, ACQREL, NS_IS_EXPLORE)
from netstack._fast.kassert cimport KASSERT, NS_LOCKS_TAGGED, ns_lock_tag
from netstack._fast.sanitize cimport ns_locking, ns_locked, ns_trying, ns_tried, ns_unlocking, ns_unlocked
from netstack._fast.mutants cimport ns_mutant, MUT_SPIN_NOT_ATOMIC, MUT_SPIN_EXIT_RELAXED

cdef extern from "sched.h" nogil:
    int sched_yield() noexcept

cdef void spin_relax() noexcept nogil    # give the processor away: sched_yield, or what relax_with installed
cdef bint spin_is_alone() noexcept nogil    # no relax_with: who holds a lock and spins for it does so for ever

cdef struct spin_t:
    uint32_t word            # 0 free, else held: 1, in the checked build a number of the thread
    uint32_t contended       # acquisitions that had to wait; written by the new owner only
    uint64_t acquired        # acquisitions; written by the owner only

cdef inline uint32_t spin_take(spin_t *lock) noexcept nogil:
    """Set the word; what it was."""
    if ns_mutant(MUT_SPIN_NOT_ATOMIC):
        if ns_load_u32(&lock.word, ACQREL) != 0:
            return 1
        ns_store_u32(&lock.word, 1, RELAXED)
        return 0
    if NS_LOCKS_TAGGED:          # the holder's number must stay in the word
        return 0 if ns_cas_u32(&lock.word, 0, ns_lock_tag()) else 1
    return ns_xchg_u32(&lock.word, 1)

cdef inline bint spin_is_mine(spin_t *lock) noexcept nogil:
    """Where locks are tagged: the calling thread holds the lock.  Elsewhere false."""
    return NS_LOCKS_TAGGED == 1 and ns_read_u32(&lock.word) == ns_lock_tag()

cdef inline bint spin_try(spin_t *lock) noexcept nogil:
    """Take the lock if it is free; true on success."""
    ns_trying(lock)
    if ns_load_u32(&lock.word, RELAXED) != 0 or spin_take(lock) != 0:
        ns_tried(lock, False)
        return False
    ns_tried(lock, True)
    ns_count_u64(&lock.acquired, 1)
    return True

cdef inline void spin_enter(spin_t *lock) noexcept nogil:
    """Take the lock; busy-waits."""
    cdef uint32_t backoff = 1, _i, rounds = 0
    ns_locking(lock)
    if spin_take(lock) == 0:
        ns_locked(lock)
        ns_count_u64(&lock.acquired, 1)
        return
    KASSERT(not (spin_is_mine(lock) and spin_is_alone()),
            b"spin lock taken by the thread that holds it: it would spin for ever")
    while True:
        for _i in range(backoff):
            ns_pause()
        if backoff < 64:
            backoff <<= 1
        else:
            rounds += 1
            if rounds & 15 == 0 and NS_IS_EXPLORE == 0:
                spin_relax()
        if ns_load_u32(&lock.word, RELAXED) == 0 and spin_take(lock) == 0:
            ns_locked(lock)
            ns_count_u64(&lock.acquired, 1)
            ns_count_u32(&lock.contended, 1)
            return

cdef inline void spin_exit(spin_t *lock) noexcept nogil:
    """Release: everything done under the lock is visible to the next owner."""
    KASSERT(NS_LOCKS_TAGGED == 0 or spin_is_mine(lock),
            b"spin lock released by a thread that does not hold it")
    ns_unlocking(lock)
    ns_store_u32(&lock.word, 0, RELAXED if ns_mutant(MUT_SPIN_EXIT_RELAXED) else ACQREL)
    ns_unlocked(lock)

cdef class SpinLock:
    cdef spin_t lock
