"""Planted errors by name: constants that are never true in release modules (``mutants.h`` says what each breaks)."""

cdef extern from "mutants.h" nogil:
    bint ns_mutant(int name) noexcept
    enum:
        MUT_NONE
        MUT_PSZ_READER_NO_FENCE
        MUT_PSZ_WRITER_NO_FENCE
        MUT_PSZ_NO_MEMBARRIER
        MUT_PSZ_NO_WAIT
        MUT_PSZ_FIRST_CPU_ONLY
        MUT_PSZ_ONE_SWITCH
        MUT_PSZ_SWITCH_NO_FENCE
        MUT_PSZ_IDLE_NO_FENCE
        MUT_PSZ_NEST_FLAT
        MUT_SPIN_NOT_ATOMIC
        MUT_SPIN_EXIT_RELAXED
        MUT_IFQ_PUT_UNLOCKED
        MUT_TX_NO_RECHECK
        MUT_TX_RECHECK_NO_FENCE
        MUT_TX_COMPLETE_NO_START
        MUT_SOFTINT_CLEAR_LATE
        MUT_REMOTE_TAKE_NOT_ATOMIC
        MUT_MSIX_NO_RECHECK
        MUT_UNMASK_NO_PENDING
        MUT_INTR_ENABLE_NO_CAUSE
        MUT_MOVE_UNMASKED
        MUT_MOVE_NO_WAIT
        MUT_WAKE_NO_FENCE
        MUT_IDLE_NO_LAST_LOOK
        MUT_IDLE_NO_FENCE
        MUT_RESUME_NO_WAIT
        MUT_DEPOT_LOCK_GAP
        MUT_RING_TAIL_EARLY
        MUT_RING_DONE_EARLY
        MUT_PCQ_CLAIM_NOT_ATOMIC
        MUT_PCQ_HEAD_EARLY
        MUT_MAC_NO_RECHECK
        MUT_MAC_TWO_HALVES
        MUT_MAC_REFRESH_BY_STORE
        MUT_NUMBER_REUSED_EARLY
        MUT_NUMBER_NOT_SWEPT
        MUT_UNLINK_AFTER_WAIT
        MUT_NO_WAIT_FOR_REFERENCES
        MUT_REFERENCE_OUTSIDE
        MUT_PURGE_BEFORE_WAIT
        MUT_MAP_FREED_EARLY
        MUT_COUNT
