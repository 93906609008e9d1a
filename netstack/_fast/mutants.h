/* Planted errors, by name: what a tool must be able to find.  ns_mutant(NAME) is the constant 0 in every module except
 * those compiled with NETSTACK_MUTANTS (the explorer, the torture kernels); there one switch turns one error on. */
#ifndef NETSTACK_MUTANTS_H
#define NETSTACK_MUTANTS_H
enum ns_mutants {
    MUT_NONE = 0,
    MUT_PSZ_READER_NO_FENCE,    /* a seqcst reader announces itself without a fence */
    MUT_PSZ_WRITER_NO_FENCE,    /* the writer looks at the readers before its unlink is visible */
    MUT_PSZ_NO_MEMBARRIER,      /* the membarrier strategy without the barrier */
    MUT_PSZ_NO_WAIT,            /* perform returns at once */
    MUT_PSZ_FIRST_CPU_ONLY,     /* perform waits for CPU 0 only */
    MUT_PSZ_ONE_SWITCH,         /* one switch point is enough, and none has a fence */
    MUT_PSZ_SWITCH_NO_FENCE,    /* two switch points, neither has a fence */
    MUT_PSZ_IDLE_NO_FENCE,      /* a CPU that comes back from idle has no fence */
    MUT_PSZ_NEST_FLAT,          /* a section inside a section is announced like one of its own */
    MUT_SPIN_NOT_ATOMIC,        /* a spin lock is tested and set in two steps */
    MUT_SPIN_EXIT_RELAXED,      /* a spin lock is released by a relaxed store */
    MUT_IFQ_PUT_UNLOCKED,       /* a frame is put into if_snd without its lock */
    MUT_TX_NO_RECHECK,          /* the holder of the TX mutex does not look at if_snd again after letting go */
    MUT_TX_RECHECK_NO_FENCE,    /* it looks again, before its release is visible */
    MUT_TX_COMPLETE_NO_START,   /* completion takes frames back and does not start what had to wait */
    MUT_SOFTINT_CLEAR_LATE,     /* the PENDING bit goes off after the handler, not before */
    MUT_REMOTE_TAKE_NOT_ATOMIC, /* softints asked for by other CPUs are read, then cleared */
    MUT_MSIX_NO_RECHECK,        /* the sender sets the pending bit and does not look at the mask again */
    MUT_UNMASK_NO_PENDING,      /* unmasking does not look at the pending bit */
    MUT_INTR_ENABLE_NO_CAUSE,   /* enabling does not look at the cause that came meanwhile */
    MUT_MOVE_UNMASKED,          /* an interrupt is moved without masking it */
    MUT_MOVE_NO_WAIT,           /* an interrupt is moved while a message is on its way or its handler runs */
    MUT_WAKE_NO_FENCE,          /* the waker looks at the sleeper before its work is visible */
    MUT_IDLE_NO_LAST_LOOK,      /* a CPU announces sleep and sleeps */
    MUT_IDLE_NO_FENCE,          /* a CPU looks for work before its announcement of sleep is visible */
    MUT_RESUME_NO_WAIT,         /* the Python thread gives a CPU back and does not wait until it is taken */
    MUT_DEPOT_LOCK_GAP,         /* a magazine counts what the depot has, lets go of its lock, then takes */
    MUT_RING_TAIL_EARLY,        /* the doorbell is rung before the slot has its buffer */
    MUT_RING_DONE_EARLY,        /* the device says done before the frame is in memory */
    MUT_PCQ_CLAIM_NOT_ATOMIC,   /* a producer claims a slot in two steps */
    MUT_PCQ_HEAD_EARLY,         /* the consumer frees a slot before it has emptied it */
    MUT_MAC_NO_RECHECK,         /* a station is entered without looking again under the lock */
    MUT_MAC_TWO_HALVES,         /* an entry is written in two halves */
    MUT_MAC_REFRESH_BY_STORE,   /* a refresh is a store, not a compare-and-swap */
    MUT_NUMBER_REUSED_EARLY,    /* a retired port number serves again before readers have left */
    MUT_NUMBER_NOT_SWEPT,       /* a retired port number serves again with its old entries in the table */
    MUT_UNLINK_AFTER_WAIT,      /* a member leaves the list after the wait for readers */
    MUT_NO_WAIT_FOR_REFERENCES, /* a member is freed while references are held */
    MUT_REFERENCE_OUTSIDE,      /* the reference is taken after the read section */
    MUT_PURGE_BEFORE_WAIT,      /* a member's addresses are removed before the wait for readers, not after */
    MUT_MAP_FREED_EARLY,        /* a port map is freed without waiting for readers */
    MUT_COUNT
};

#if defined(NETSTACK_MUTANTS) && defined(NETSTACK_EXPLORE)
/* Explorers may run in several threads, each with its own error. */
static __thread __attribute__((tls_model("initial-exec"))) int ns_mutant_on;
#define ns_mutant(name) (__builtin_expect(ns_mutant_on == (name), 0))
#elif defined(NETSTACK_MUTANTS)
static int ns_mutant_on;
#define ns_mutant(name) (__builtin_expect(ns_mutant_on == (name), 0))
#else
#define ns_mutant(name) 0
#endif
#endif
