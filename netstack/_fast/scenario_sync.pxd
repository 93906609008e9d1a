"""Explorer scenarios of locks and waiting: spin lock, pserialize by three strategies, idle, the Python thread's pause.

Each is a world, a setup, what each CPU does, and what must hold in the end; see ``explore.pyx`` for the table.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from netstack._fast.atomics cimport (ns_load_u32, ns_load_u64, ns_load_ptr, ns_store_u32, ns_store_u64, ns_store_ptr,
                                     ns_pause, RELAXED, ACQREL)
from netstack._fast.cpu cimport cpu_t, softint_post
from netstack._fast.explorer cimport must, spl_raise, spl_lower
from netstack._fast.idle cimport idle_announce, stay_paused, pause_ask, pause_is_granted, pause_end
from netstack._fast.intr cimport lapic_t, intc_t, cpu_must_wake
from netstack._fast.lock cimport spin_t, spin_enter, spin_exit, spin_try
from netstack._fast.mutants cimport ns_mutant, MUT_RESUME_NO_WAIT
from netstack._fast.pserialize cimport (psz_t, psz_slot_t, psz_grace_t, psz_read_enter, psz_read_exit, psz_switchpoint,
                                        psz_idle, psz_perform_begin, psz_perform_poll, PSZ_SEQCST, PSZ_MEMBARRIER,
                                        PSZ_SWITCH)

# Spin lock: two CPUs, two critical sections each; one entered, one tried for.

cdef struct spin_world_t:
    spin_t lock
    uint64_t owner
    uint64_t count
    uint64_t entered[2]

cdef inline void spin_setup(void *world) noexcept nogil:
    memset(world, 0, sizeof(spin_world_t))

cdef inline void spin_section(spin_world_t *w, int cpu) noexcept nogil:
    must(ns_load_u64(&w.owner, RELAXED) == 0, b"spin lock: two owners")
    ns_store_u64(&w.owner, cpu + 1, RELAXED)
    ns_store_u64(&w.count, ns_load_u64(&w.count, RELAXED) + 1, RELAXED)
    w.entered[cpu] += 1
    ns_store_u64(&w.owner, 0, RELAXED)
    spin_exit(&w.lock)

cdef inline void spin_body(void *world, int cpu) noexcept nogil:
    cdef spin_world_t *w = <spin_world_t *> world
    spin_enter(&w.lock)
    spin_section(w, cpu)
    if spin_try(&w.lock):
        spin_section(w, cpu)

cdef inline void spin_finish(void *world) noexcept nogil:
    cdef spin_world_t *w = <spin_world_t *> world
    must(w.lock.word == 0, b"spin lock: left locked")
    must(w.count == w.entered[0] + w.entered[1], b"spin lock: an update inside the lock is lost")

# pserialize: CPU 0 replaces an object twice and frees what it replaced, the others read.

cdef enum:
    PSZ_CPUS = 3
    OBJECT_LIVE = 1
    OBJECT_FREED = 2

cdef struct psz_world_t:
    psz_t psz
    psz_slot_t slot[PSZ_CPUS]
    psz_grace_t grace
    uint32_t *published
    uint32_t object[3]
    uint32_t rounds

cdef inline void psz_setup(void *world, uint32_t strategy, uint32_t ncpu) noexcept nogil:
    cdef psz_world_t *w = <psz_world_t *> world
    memset(world, 0, sizeof(psz_world_t))
    w.psz.strategy = strategy
    w.psz.ncpu = ncpu
    w.psz.slot = &w.slot[0]
    w.slot[0].idle = 1               # the writer is a thread: it has no handlers to pass between
    w.object[0] = OBJECT_LIVE
    w.published = &w.object[0]
    w.rounds = 2

cdef inline void psz_seqcst_setup(void *world) noexcept nogil:
    psz_setup(world, PSZ_SEQCST, 3)

cdef inline void psz_membarrier_setup(void *world) noexcept nogil:
    psz_setup(world, PSZ_MEMBARRIER, 3)

cdef inline void psz_switch_setup(void *world) noexcept nogil:
    psz_setup(world, PSZ_SWITCH, 2)

cdef inline void psz_idle_setup(void *world) noexcept nogil:
    psz_setup(world, PSZ_SWITCH, 2)

cdef inline void psz_perform(psz_world_t *w) noexcept nogil:
    psz_perform_begin(&w.psz, &w.grace)
    while psz_perform_poll(&w.psz, &w.grace):
        ns_pause()

cdef inline void psz_writer(psz_world_t *w) noexcept nogil:
    cdef uint32_t i
    for i in range(1, w.rounds):
        ns_store_u32(&w.object[i], OBJECT_LIVE, RELAXED)
        ns_store_ptr(&w.published, &w.object[i], ACQREL)
        psz_perform(w)
        ns_store_u32(&w.object[i - 1], OBJECT_FREED, RELAXED)

cdef inline void psz_reader(psz_world_t *w, int cpu) noexcept nogil:
    cdef uint32_t *found
    psz_read_enter(&w.psz, cpu)
    found = <uint32_t *> ns_load_ptr(&w.published, ACQREL)
    must(ns_load_u32(found, RELAXED) == OBJECT_LIVE, b"pserialize: an object is used after it was freed")
    psz_read_exit(&w.psz, cpu)

cdef inline void psz_body(void *world, int cpu) noexcept nogil:
    cdef psz_world_t *w = <psz_world_t *> world
    if cpu == 0:
        psz_writer(w)
    else:
        psz_reader(w, cpu)
        psz_reader(w, cpu)

cdef inline void psz_switch_body(void *world, int cpu) noexcept nogil:
    cdef psz_world_t *w = <psz_world_t *> world
    cdef uint32_t _i
    if cpu == 0:
        psz_writer(w)
        return
    for _i in range(3):
        psz_switchpoint(&w.psz, cpu)
        psz_switchpoint(&w.psz, cpu)     # end of a handler, end of a round: nothing between them
        psz_reader(w, cpu)
    psz_idle(&w.psz, cpu, True)

cdef inline void psz_idle_body(void *world, int cpu) noexcept nogil:
    cdef psz_world_t *w = <psz_world_t *> world
    cdef uint32_t _i
    if cpu == 0:
        psz_writer(w)
        return
    for _i in range(2):
        psz_idle(&w.psz, cpu, True)
        psz_idle(&w.psz, cpu, False)
        psz_reader(w, cpu)
        psz_switchpoint(&w.psz, cpu)
    psz_idle(&w.psz, cpu, True)

cdef inline void psz_nest_body(void *world, int cpu) noexcept nogil:
    """A handler reads while the thread below it does, as a hard handler at IPL_HIGH may (Table 1, footnote)."""
    cdef psz_world_t *w = <psz_world_t *> world
    cdef uint32_t *found
    if cpu == 0:
        psz_writer(w)
        return
    spl_raise(cpu)
    psz_read_enter(&w.psz, cpu)
    spl_lower(cpu)
    found = <uint32_t *> ns_load_ptr(&w.published, ACQREL)
    must(ns_load_u32(found, RELAXED) == OBJECT_LIVE, b"pserialize: an object is used after it was freed")
    spl_raise(cpu)
    psz_read_exit(&w.psz, cpu)
    spl_lower(cpu)

cdef inline void psz_nest_intr(void *world, int cpu) noexcept nogil:
    psz_reader(<psz_world_t *> world, cpu)

cdef inline void psz_finish(void *world) noexcept nogil:
    cdef psz_world_t *w = <psz_world_t *> world
    must(w.object[0] == OBJECT_FREED, b"pserialize: the grace period freed nothing")

# Idle: CPU 0 sleeps when it finds nothing, CPU 1 posts a softint, CPU 2 stops it.

cdef struct idle_world_t:
    lapic_t lapic
    intc_t intc
    uint32_t seen
    cpu_t cpu

cdef inline void idle_setup(void *world) noexcept nogil:
    cdef idle_world_t *w = <idle_world_t *> world
    memset(&w.lapic, 0, sizeof(lapic_t))
    w.lapic.eventfd = -1                 # the wake-up itself is the flag ``sleeping``: no system call here
    w.intc.lapic[0] = &w.lapic
    w.intc.cpus_pending = 0
    w.seen = 0
    w.cpu.index = 0
    w.cpu.lapic = &w.lapic
    w.cpu.intc = &w.intc
    w.cpu.stop = 0
    w.cpu.pause_wanted = 0

cdef inline void idle_body(void *world, int cpu) noexcept nogil:
    cdef idle_world_t *w = <idle_world_t *> world
    if cpu == 1:
        softint_post(&w.cpu, 3)
        cpu_must_wake(&w.lapic)
        return
    if cpu == 2:
        ns_store_u32(&w.cpu.stop, 1, ACQREL)
        cpu_must_wake(&w.lapic)
        return
    while ns_load_u32(&w.cpu.stop, ACQREL) == 0:     # asleep for ever is a deadlock
        if ns_load_u64(&w.lapic.remote_soft[0], ACQREL):
            w.seen = 1
            ns_store_u64(&w.lapic.remote_soft[0], 0, RELAXED)
        if idle_announce(&w.cpu):
            while ns_load_u32(&w.lapic.sleeping, ACQREL):
                ns_pause()               # poll(2): until somebody writes the eventfd
        ns_store_u32(&w.lapic.sleeping, 0, ACQREL)

cdef inline void idle_finish(void *world) noexcept nogil:
    cdef idle_world_t *w = <idle_world_t *> world
    must(w.seen or w.lapic.remote_soft[0] != 0, b"idle: a post is lost")

# The Python thread takes a CPU from its loop and gives it back, twice: one of them runs at a time.

cdef struct pause_world_t:
    psz_t psz
    psz_slot_t slot[1]
    uint64_t owner
    uint32_t is_over
    cpu_t cpu

cdef inline void pause_setup(void *world) noexcept nogil:
    cdef pause_world_t *w = <pause_world_t *> world
    memset(world, 0, sizeof(pause_world_t) - sizeof(cpu_t))
    w.psz.ncpu = 1
    w.psz.slot = &w.slot[0]
    w.cpu.index = 0
    w.cpu.psz = &w.psz
    w.cpu.pause_wanted = 0
    w.cpu.paused = 0

cdef inline void pause_run(pause_world_t *w, uint64_t who) noexcept nogil:
    """Be the CPU for a moment."""
    must(ns_load_u64(&w.owner, RELAXED) == 0, b"pause: loop and Python thread both run as the CPU")
    ns_store_u64(&w.owner, who, RELAXED)
    must(ns_load_u64(&w.owner, RELAXED) == who, b"pause: loop and Python thread both run as the CPU")
    ns_store_u64(&w.owner, 0, RELAXED)

cdef inline void pause_body(void *world, int cpu) noexcept nogil:
    cdef pause_world_t *w = <pause_world_t *> world
    cdef uint32_t _i
    if cpu == 0:
        while ns_load_u32(&w.is_over, ACQREL) == 0:
            if ns_load_u32(&w.cpu.pause_wanted, ACQREL):
                stay_paused(&w.cpu)
            else:
                pause_run(w, 1)
                ns_pause()
        return
    for _i in range(2):
        pause_ask(&w.cpu)
        while not pause_is_granted(&w.cpu):
            ns_pause()
        pause_run(w, 2)
        pause_end(&w.cpu)
        while not ns_mutant(MUT_RESUME_NO_WAIT) and pause_is_granted(&w.cpu):
            ns_pause()
    ns_store_u32(&w.is_over, 1, ACQREL)

cdef inline void pause_finish(void *world) noexcept nogil:
    pass
