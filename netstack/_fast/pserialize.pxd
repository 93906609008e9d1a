"""pserialize: lock-free read sections and the grace period (paper §3.1.3; NetBSD pserialize(9)).

Strategies, chosen when the object is made; readers pay less from top to bottom, writers more:

  SEQCST      a reader announces itself with a store and a full fence;
  MEMBARRIER  a reader announces itself with a plain store; the writer makes every processor run a barrier;
  SWITCH      the paper's: a reader announces nothing, the writer waits until every CPU has passed two switch points.
"""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.defs cimport CPU_MAX, STAT_SLOTS
from netstack._fast.atomics cimport (ns_load_u64, ns_store_u64, ns_own_u64, ns_fence, ns_compiler_barrier, RELAXED,
                                     ACQREL)
from netstack._fast.kassert cimport KASSERT
from netstack._fast.mutants cimport (ns_mutant, MUT_PSZ_READER_NO_FENCE, MUT_PSZ_WRITER_NO_FENCE,
                                     MUT_PSZ_NO_MEMBARRIER, MUT_PSZ_NO_WAIT, MUT_PSZ_FIRST_CPU_ONLY,
                                     MUT_PSZ_ONE_SWITCH, MUT_PSZ_SWITCH_NO_FENCE, MUT_PSZ_IDLE_NO_FENCE,
                                     MUT_PSZ_NEST_FLAT)

cdef extern from "membarrier.h" nogil:
    bint ns_membarrier_register() noexcept
    void ns_membarrier() noexcept

cdef enum:
    PSZ_SEQCST = 0
    PSZ_MEMBARRIER = 1
    PSZ_SWITCH = 2

cdef struct psz_slot_t:          # one per CPU, 128 bytes: written by that CPU only
    uint64_t sections            # odd inside a read section
    uint64_t switches            # switch points passed
    uint64_t idle                # 1 while the CPU runs nothing: it cannot be inside a section
    uint64_t depth               # nesting: the outermost section counts
    uint64_t pad[12]

cdef struct psz_t:
    uint32_t strategy
    uint32_t ncpu
    psz_slot_t *slot

cdef struct psz_grace_t:         # a grace period under way; of the performer
    uint64_t snapshot[STAT_SLOTS]    # sections or switches of each CPU at the start
    uint32_t left[STAT_SLOTS]        # 1: still waited for

cdef inline void psz_read_enter(psz_t *psz, uint32_t cpu) noexcept nogil:
    """Open a read section on this CPU; nests.  Must not sleep or block until psz_read_exit.

    No handler of this CPU interrupts the call itself: here interrupts are taken between kernels, elsewhere raise SPL.
    """
    cdef psz_slot_t *slot = &psz.slot[cpu]
    slot.depth += 1
    if slot.depth > 1 and not ns_mutant(MUT_PSZ_NEST_FLAT):
        return                   # a handler that interrupted a reader: its section is inside the open one
    ns_store_u64(&slot.sections, ns_own_u64(&slot.sections) + 1, RELAXED)
    if psz.strategy == PSZ_SEQCST and not ns_mutant(MUT_PSZ_READER_NO_FENCE):
        ns_fence()               # the announcement must be seen before anything read inside
    else:
        ns_compiler_barrier()    # the writer's barrier, or the switch points, do the rest


cdef inline void psz_read_exit(psz_t *psz, uint32_t cpu) noexcept nogil:
    """Close the section; what was read inside must not be used any more unless it is held otherwise."""
    cdef psz_slot_t *slot = &psz.slot[cpu]
    KASSERT(slot.depth != 0, b"pserialize read section closed twice")
    slot.depth -= 1
    if slot.depth and not ns_mutant(MUT_PSZ_NEST_FLAT):
        return
    ns_store_u64(&slot.sections, ns_own_u64(&slot.sections) + 1, ACQREL)


cdef inline void psz_switchpoint(psz_t *psz, uint32_t cpu) noexcept nogil:
    """This CPU is between two handlers: no section is open on it."""
    cdef psz_slot_t *slot = &psz.slot[cpu]
    KASSERT(slot.depth == 0, b"pserialize read section left open over a switch point")
    if psz.strategy == PSZ_SWITCH:
        ns_store_u64(&slot.switches, ns_own_u64(&slot.switches) + 1, ACQREL)
        if not ns_mutant(MUT_PSZ_SWITCH_NO_FENCE) and not ns_mutant(MUT_PSZ_ONE_SWITCH):
            # Nothing read in a later section may be read before this count is seen: a store buffer may hold several
            # counts, and a writer that sees them late would take old switch points for new ones.
            ns_fence()


cdef inline void psz_idle(psz_t *psz, uint32_t cpu, bint is_idle) noexcept nogil:
    """The CPU goes idle, or comes back: an idle CPU never stalls a grace period."""
    if is_idle:
        ns_store_u64(&psz.slot[cpu].idle, 1, ACQREL)
    else:
        ns_store_u64(&psz.slot[cpu].idle, 0, RELAXED)
        if not ns_mutant(MUT_PSZ_IDLE_NO_FENCE):
            ns_fence()           # no read inside a later section may move before this


cdef inline void psz_perform_begin(psz_t *psz, psz_grace_t *grace) noexcept nogil:
    """Start a grace period: note which CPUs have to make progress.  The writer has unlinked before."""
    cdef uint32_t i
    if psz.strategy == PSZ_MEMBARRIER:
        if not ns_mutant(MUT_PSZ_NO_MEMBARRIER):
            ns_membarrier()
    elif not ns_mutant(MUT_PSZ_WRITER_NO_FENCE):
        ns_fence()               # the unlink must be seen before the readers are looked at
    for i in range(psz.ncpu):
        if psz.strategy == PSZ_SWITCH:
            grace.snapshot[i] = ns_load_u64(&psz.slot[i].switches, ACQREL)
            grace.left[i] = 1
        else:
            grace.snapshot[i] = ns_load_u64(&psz.slot[i].sections, ACQREL)
            grace.left[i] = <uint32_t> (grace.snapshot[i] & 1)
        if ns_mutant(MUT_PSZ_NO_WAIT) or (ns_mutant(MUT_PSZ_FIRST_CPU_ONLY) and i != 0):
            grace.left[i] = 0


cdef inline bint psz_has_passed(psz_t *psz, psz_grace_t *grace, uint32_t cpu) noexcept nogil:
    """Every section that was open on the CPU at the start of the grace period has ended."""
    cdef psz_slot_t *slot = &psz.slot[cpu]
    cdef uint32_t need = 1 if ns_mutant(MUT_PSZ_ONE_SWITCH) else 2
    if psz.strategy == PSZ_SWITCH:
        # Two, because the first switch point may have been under way when the snapshot was taken.
        return (ns_load_u64(&slot.switches, ACQREL) - grace.snapshot[cpu] >= need
                or ns_load_u64(&slot.idle, ACQREL) == 1)
    return ns_load_u64(&slot.sections, ACQREL) != grace.snapshot[cpu]


cdef inline uint32_t psz_perform_poll(psz_t *psz, psz_grace_t *grace) noexcept nogil:
    """How many CPUs the grace period still waits for; 0 ends it."""
    cdef uint32_t i, left = 0
    for i in range(psz.ncpu):
        if grace.left[i]:
            if psz_has_passed(psz, grace, i):
                grace.left[i] = 0
            else:
                left += 1
    return left


cdef class PSerialize:
    cdef psz_t psz
    cdef void *_memory
    cdef readonly uint64_t performs
    cdef psz_grace_t _grace
    cdef void _check(self, cpu) except *
