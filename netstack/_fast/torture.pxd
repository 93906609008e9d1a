"""Torture on real threads: the party of OS threads, chance, delays, tallies (reliability of §2.2, §3.1, §5.4).

The threads are made, meet and work without the GIL: threads that meet in Python hand the GIL from one to the next,
which orders what they do and hides races.
"""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.atomics cimport ns_add_u32, ns_load_u32, ns_store_u32, ns_pause, RELAXED, ACQREL
from netstack._fast.lock cimport sched_yield

cdef enum:
    PARTY_MAX = 32               # threads of one party
    KINDS_MAX = 12               # counts and violations by kind

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec *req, timespec *rem) noexcept
    int clock_gettime(int clock, timespec *ts) noexcept
    enum:
        CLOCK_MONOTONIC

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, const void *attr, void *(*fn)(void *) noexcept nogil, void *arg) noexcept
    int pthread_join(pthread_t thread, void **result) noexcept

cdef struct tally_t:             # one per thread: written by that thread only
    uint64_t count[KINDS_MAX]
    uint64_t bad[4]              # violations by kind

cdef struct member_t             # one thread

ctypedef void (*work_fn)(member_t *me) noexcept nogil

cdef struct party_t:
    work_fn work                 # what each thread does until stop
    void *state                  # of the torture
    uint32_t n
    uint32_t mutant              # 1 + index in MUTANTS; 0: the code as it is
    uint64_t pad0[14]
    uint32_t arrived             # threads at the gate
    uint32_t stop
    uint32_t stutter             # 1: everybody rests, so that beginnings and ends are tortured too
    uint32_t met                 # of meet: threads that have arrived
    uint32_t round               # of meet
    uint32_t is_void             # not all threads could be made
    uint32_t pad1[26]

cdef struct member_t:
    party_t *party
    uint32_t index
    uint32_t pad
    uint64_t rng
    pthread_t thread
    tally_t tally
    uint64_t lines[12]


cdef inline uint64_t chance(member_t *me) noexcept nogil:
    """64 random bits (xorshift64*)."""
    me.rng ^= me.rng >> 12
    me.rng ^= me.rng << 25
    me.rng ^= me.rng >> 27
    return me.rng * <uint64_t> 0x2545F4914F6CDD1D


cdef inline void doze(uint64_t ns) noexcept nogil:
    """Sleep on the host, below a second."""
    cdef timespec ts
    ts.tv_sec = 0
    ts.tv_nsec = <long> ns
    nanosleep(&ts, NULL)


cdef inline uint64_t clock_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t> ts.tv_sec * 1000000000 + <uint64_t> ts.tv_nsec


cdef inline void linger(uint64_t lot) noexcept nogil:
    """A random delay: mostly none, sometimes long enough that another thread gets the processor."""
    cdef uint32_t _i
    if lot & 63 == 0:
        for _i in range(<uint32_t> (lot >> 32 & 31)):
            ns_pause()
    elif lot & 1023 == 1:
        sched_yield()
    elif lot & 0x3FFFF == 2:
        doze(20000)


cdef inline bint goes_on(member_t *me) noexcept nogil:
    """False when the torture is over; rests while it stutters.  Call it outside of everything."""
    while ns_load_u32(&me.party.stutter, RELAXED) and not ns_load_u32(&me.party.stop, RELAXED):
        doze(200000)
    return ns_load_u32(&me.party.stop, RELAXED) == 0


cdef inline void wait_a_little(uint32_t *spins) noexcept nogil:
    """One look of a busy wait: pauses, and gives the processor away now and then."""
    ns_pause()
    spins[0] += 1
    if spins[0] & 31 == 0:
        sched_yield()


cdef inline bint meet(member_t *me) noexcept nogil:
    """Wait until all threads are here; true for the one that came last, which the others wait for once more."""
    cdef party_t *party = me.party
    cdef uint32_t round = ns_load_u32(&party.round, ACQREL), spins = 0
    if ns_add_u32(&party.met, 1) == party.n - 1:
        return True
    while ns_load_u32(&party.round, ACQREL) == round:
        wait_a_little(&spins)
    return False


cdef inline void part(member_t *me) noexcept nogil:
    """The last one lets the others go on."""
    ns_store_u32(&me.party.met, 0, RELAXED)
    ns_store_u32(&me.party.round, me.party.round + 1, ACQREL)


cdef int party_run(party_t *party, member_t *members, uint64_t ns) noexcept nogil

cdef class Torture:
    cdef party_t *party
    cdef member_t *members
    cdef readonly str mutant
    cdef readonly double seconds
    cdef void begin(self, work_fn work, void *state) noexcept
