"""How a wall-clock CPU waits: host time, host descriptors, sleep with no lost wake-up.

The CPU announces sleep, looks once more, and only then sleeps; whoever posts work looks at the announcement after the
work is visible.  One of the two sees the other.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from netstack._fast.atomics cimport (ns_count_u64, ns_load_u32, ns_store_u32, ns_load_u64, ns_xchg_u32, ns_fence,
                                     ns_pause, ACQREL, NS_IS_EXPLORE)
from netstack._fast.cpu cimport cpu_t, fdent_t, FDS_MAX
from netstack._fast.defs cimport VECTOR_WORDS
from netstack._fast.intr cimport intr_raise
from netstack._fast.mutants cimport ns_mutant, MUT_IDLE_NO_LAST_LOOK, MUT_IDLE_NO_FENCE
from netstack._fast.pserialize cimport psz_idle, psz_switchpoint

cdef extern from "sched.h" nogil:
    int sched_yield() noexcept

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts) noexcept
    enum:
        CLOCK_MONOTONIC

cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd *fds, unsigned long n, const timespec *timeout, const void *sigmask) noexcept
    enum:
        POLLIN

cdef extern from "unistd.h" nogil:
    long read(int fd, void *buf, size_t n) noexcept

cdef enum:
    IDLE_SLICE_NS = 100000000    # an idle CPU looks around at least this often
    SPIN_BELOW_NS = 60000        # a wait shorter than this is not worth a sleep


cdef inline uint64_t wall_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t> ts.tv_sec * 1000000000 + ts.tv_nsec


cdef inline void stay_paused(cpu_t *cpu) noexcept nogil:
    """The loop, between two handlers: hand the CPU to its Python thread until that is done."""
    cdef uint32_t spins = 0
    psz_switchpoint(cpu.psz, cpu.index)
    ns_store_u32(&cpu.paused, 1, ACQREL)
    while ns_load_u32(&cpu.pause_wanted, ACQREL):
        ns_pause()
        spins += 1
        if spins & 63 == 0 and NS_IS_EXPLORE == 0:
            sched_yield()
    ns_store_u32(&cpu.paused, 0, ACQREL)


cdef inline void pause_ask(cpu_t *cpu) noexcept nogil:
    """The Python thread wants the CPU; it has it when pause_is_granted."""
    ns_xchg_u32(&cpu.pause_wanted, 1)


cdef inline bint pause_is_granted(cpu_t *cpu) noexcept nogil:
    return ns_load_u32(&cpu.paused, ACQREL) != 0


cdef inline void pause_end(cpu_t *cpu) noexcept nogil:
    """Give the CPU back; the next pause_ask must wait until this one is no longer granted."""
    ns_store_u32(&cpu.pause_wanted, 0, ACQREL)


cdef inline bint something_pending(cpu_t *cpu) noexcept nogil:
    """Looked at between announcing sleep and sleeping."""
    cdef uint32_t w
    for w in range(VECTOR_WORDS):
        if ns_load_u64(&cpu.lapic.pending[w], ACQREL):
            return True
    for w in range(4):
        if ns_load_u64(&cpu.lapic.remote_soft[w], ACQREL):
            return True
    return ns_load_u32(&cpu.stop, ACQREL) != 0 or ns_load_u32(&cpu.pause_wanted, ACQREL) != 0


cdef inline uint32_t look_at_fds(cpu_t *cpu, int64_t timeout_ns) noexcept nogil:
    """Wait for the wake-up descriptor and the host ports; readiness of a port raises its interrupt."""
    cdef pollfd fds[FDS_MAX + 1]
    cdef fdent_t *which[FDS_MAX + 1]
    cdef uint32_t i, n = 1, ready = 0
    cdef timespec ts
    cdef uint64_t junk
    fds[0].fd = cpu.lapic.eventfd
    fds[0].events = POLLIN
    fds[0].revents = 0
    for i in range(cpu.nfds):
        if cpu.fds[i].fd >= 0 and ns_load_u32(&cpu.fds[i].intr.enabled, ACQREL):
            fds[n].fd = cpu.fds[i].fd
            fds[n].events = <short> cpu.fds[i].events
            fds[n].revents = 0
            which[n] = &cpu.fds[i]
            n += 1
    ts.tv_sec = timeout_ns // 1000000000
    ts.tv_nsec = timeout_ns % 1000000000
    if ppoll(fds, n, &ts, NULL) <= 0:
        return 0
    if fds[0].revents:
        read(cpu.lapic.eventfd, &junk, 8)
    for i in range(1, n):
        if fds[i].revents:
            intr_raise(which[i].intr)
            ready += 1
    return ready


cdef inline int64_t generator_wait(cpu_t *cpu, uint64_t now) noexcept nogil:
    """Nanoseconds until a generator driven here wants to send; -1 when none does."""
    cdef uint32_t i
    cdef int64_t wait = -1, t
    for i in range(cpu.ngens):
        if cpu.gens[i].gen == NULL or now >= cpu.gens[i].gen.stop_ns:
            continue
        t = <int64_t> cpu.gens[i].gen.next_ns - <int64_t> now if cpu.gens[i].gen.interval_ns > 0 else 0
        if t < 0:
            t = 0
        if wait < 0 or t < wait:
            wait = t
    return wait


cdef inline bint idle_announce(cpu_t *cpu) noexcept nogil:
    """Announce sleep, then look once more; true when the CPU may sleep until it is woken."""
    ns_store_u32(&cpu.lapic.sleeping, 1, ACQREL)
    if ns_mutant(MUT_IDLE_NO_LAST_LOOK):
        return True
    if not ns_mutant(MUT_IDLE_NO_FENCE):
        ns_fence()                               # announce sleep before the last look
    return not something_pending(cpu)


cdef inline void sleep_idle(cpu_t *cpu, uint64_t now) noexcept nogil:
    """Nothing to do: sleep until an interrupt, a post, or the next frame of a generator."""
    cdef int64_t wait = generator_wait(cpu, now)
    if wait >= 0 and wait < SPIN_BELOW_NS:
        ns_pause()                               # too short to sleep
        return
    if wait < 0 or wait > IDLE_SLICE_NS:
        wait = IDLE_SLICE_NS
    ns_count_u64(&cpu.idles, 1)
    psz_idle(cpu.psz, cpu.index, True)
    if idle_announce(cpu):
        if generator_wait(cpu, now) < 0:
            ns_store_u32(&cpu.is_idle, 1, ACQREL)
        look_at_fds(cpu, wait)
        ns_store_u32(&cpu.is_idle, 0, ACQREL)
    ns_store_u32(&cpu.lapic.sleeping, 0, ACQREL)
    psz_idle(cpu.psz, cpu.index, False)
