"""pserialize: lock-free read sections and the grace period (paper §3.1.3; NetBSD pserialize(9)).

Strategies, chosen when the object is made; readers pay less from top to bottom, writers more:

  SEQCST      a reader announces itself with a store and a full fence;
  MEMBARRIER  a reader announces itself with a plain store; the writer makes every processor run a barrier;
  SWITCH      the paper's: a reader announces nothing, the writer waits until every CPU has passed two switch points.
"""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.defs cimport CPU_MAX, STAT_SLOTS
from netstack._fast.atomics cimport (ns_load_u64, ns_store_u64, ns_fence, ns_compiler_barrier, RELAXED, ACQREL)
from netstack._fast.kassert cimport KASSERT

cdef enum:
    PSZ_SEQCST = 0
    PSZ_MEMBARRIER = 1
    PSZ_SWITCH = 2

cdef struct psz_slot_t:          # one per CPU, 128 bytes: written by that CPU only
    uint64_t sections            # odd inside a read section
    uint64_t switches            # switch points passed
    uint64_t idle                # 1 while the CPU runs nothing: it cannot be inside a section
    uint64_t depth               # nesting, checked builds
    uint64_t pad[12]

cdef struct psz_t:
    uint32_t strategy
    uint32_t ncpu
    psz_slot_t *slot

cdef inline void psz_read_enter(psz_t *psz, uint32_t cpu) noexcept nogil:
    """Open a read section on this CPU.  Must not sleep, block or nest until psz_read_exit."""
    cdef psz_slot_t *slot = &psz.slot[cpu]
    KASSERT(slot.sections & 1 == 0, b"pserialize read section opened twice on one CPU")
    ns_store_u64(&slot.sections, slot.sections + 1, RELAXED)
    if psz.strategy == PSZ_SEQCST:
        ns_fence()               # the announcement must be seen before anything read inside
    else:
        ns_compiler_barrier()    # the writer's barrier, or the switch points, do the rest


cdef inline void psz_read_exit(psz_t *psz, uint32_t cpu) noexcept nogil:
    """Close the section; what was read inside must not be used any more unless it is held otherwise."""
    cdef psz_slot_t *slot = &psz.slot[cpu]
    KASSERT(slot.sections & 1 == 1, b"pserialize read section closed twice")
    ns_store_u64(&slot.sections, slot.sections + 1, ACQREL)


cdef inline void psz_switchpoint(psz_t *psz, uint32_t cpu) noexcept nogil:
    """This CPU is between two handlers: no section is open on it."""
    cdef psz_slot_t *slot = &psz.slot[cpu]
    KASSERT(slot.sections & 1 == 0, b"pserialize read section left open over a switch point")
    if psz.strategy == PSZ_SWITCH:
        ns_store_u64(&slot.switches, slot.switches + 1, ACQREL)


cdef inline void psz_idle(psz_t *psz, uint32_t cpu, bint is_idle) noexcept nogil:
    """The CPU goes idle, or comes back: an idle CPU never stalls a grace period."""
    if is_idle:
        ns_store_u64(&psz.slot[cpu].idle, 1, ACQREL)
    else:
        ns_store_u64(&psz.slot[cpu].idle, 0, RELAXED)
        ns_fence()               # no read inside a later section may move before this


cdef class PSerialize:
    cdef psz_t psz
    cdef void *_memory
    cdef readonly uint64_t performs
    cdef uint64_t _snapshot[STAT_SLOTS]
    cdef uint32_t _left[STAT_SLOTS]
    cdef void _check(self, cpu) except *
    cdef bint _pass(self, uint32_t cpu) noexcept nogil
