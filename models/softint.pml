/* The PENDING bit and FIFO of softints, posts from other CPUs, sleep and wake-up: softint_schedule, softint_next and
 * remote_take of netstack/_fast/cpu.pxd, softint_post_remote of cpu.pyx, cpu_wake of intr.pxd, sleep_idle of idle.pxd.
 *
 * CPU 0 serves two softints of one level.  Work for them comes from a CPU that posts softint 1, from a device whose
 * interrupt schedules softint 0, and from a hard interrupt that pre-empts a handler at any point and schedules
 * softint 0.  Work and the word `sleeping` go through store buffers.
 *
 * Shown: when nothing moves any more all work has been done (no post and no wake-up is lost); the FIFO never holds a
 * softint twice; the oldest goes first.  The sleep has no time-out here; the real one's 100 ms would hide a loss.
 */
#ifndef POSTS
#define POSTS 2                 /* items from the other CPU; one from each interrupt */
#endif
#define NCPU     3
#define SB_DEPTH 2
#define REMOTE   1              /* CPU that posts; its work counts in put[REMOTE] */
#define DEVICE   2
#define HARD     0              /* work of the pre-empting interrupt: CPU 0 itself */

byte put[3], done[3];           /* work asked for and done, by source */
byte remote_soft;               /* lapic_t.remote_soft (and .pending): one bit per softint */
bit  sleeping;                  /* lapic_t.sleeping */
bit  eventfd;
bit  pending[2];                /* cpu_t.soft_pending */
byte fifo[4], head, tail;       /* softq_t; one slot more than can be in use */
byte ticket, drawn[2];          /* order of scheduling: a check, not part of the code */
bit  is_awake;                 /* the CPU is awake: an interrupt needs no wake-up */

#define W_PUT      0
#define W_SLEEPING 1
inline sb_apply(cpu, word, value)
{
    if
    :: word == W_PUT      -> put[cpu] = value
    :: word == W_SLEEPING -> sleeping = value
    fi
}
#include "storebuffer.h"

inline softint_schedule(handle)         /* at splhigh: one step as seen by this CPU */
{
    d_step {
        if
#ifdef MUTANT_NO_PENDING_CHECK
        :: false
#else
        :: pending[handle]
#endif
        :: else ->
            pending[handle] = 1;
            drawn[handle] = ticket;
            ticket++;
            assert(tail - head < 2);
            fifo[tail % 4] = handle;
            tail++
        fi
    }
}

inline softint_next()                   /* at splhigh too */
{
    d_step {
#ifdef MUTANT_LIFO
        tail--;
        handle = fifo[tail % 4];
#else
        handle = fifo[head % 4];
        head++;
#endif
        assert(!pending[1 - handle] || drawn[handle] < drawn[1 - handle]);
#ifndef MUTANT_CLEAR_AFTER
        pending[handle] = 0
#endif
    }
}

inline remote_take()
{
    if
    :: remote_soft == 0
    :: else ->
#ifdef MUTANT_TAKE_IN_TWO_STEPS
        bits = remote_soft;
        remote_soft = 0;
#else
        atomic { FENCE(0) -> bits = remote_soft; remote_soft = 0 };     /* ns_xchg_u64 */
#endif
        if
        :: bits & 1 -> softint_schedule(0)
        :: else
        fi;
        if
        :: bits & 2 -> softint_schedule(1)
        :: else
        fi;
        bits = 0
    fi
}

proctype cpu()
{
    byte handle, x, bits;
    do
    :: true ->
        is_awake = 1;
        remote_take();
        do
        :: head == tail -> break
        :: else ->
            softint_next();
            if
            :: handle == 0 ->           /* the handler: take what there is */
                x = put[HARD];
                done[HARD] = x;
                x = put[DEVICE];
                done[DEVICE] = x
            :: else ->
                x = put[REMOTE];
                done[REMOTE] = x
            fi;
#ifdef MUTANT_CLEAR_AFTER
            pending[handle] = 0;
#endif
        od;
        /* sleep_idle */
#ifndef MUTANT_LOOK_FIRST
        STORE(0, W_SLEEPING, 1);
#ifndef MUTANT_NO_SLEEP_FENCE
        FENCE(0);
#endif
#endif
        if
        :: remote_soft != 0
        :: else ->
#ifdef MUTANT_LOOK_FIRST
            STORE(0, W_SLEEPING, 1);
            FENCE(0);
#endif
            atomic {                    /* an interrupt that comes before the sleep keeps the CPU awake */
                if
                :: head == tail -> is_awake = 0
                :: else -> goto awake
                fi
            };
end:        eventfd -> eventfd = 0
        fi;
awake:  STORE(0, W_SLEEPING, 0)
    od
}

/* Ask CPU 0 for a softint: ns_or_u64, then cpu_wake. */
inline post(me, bitno)
{
#ifdef MUTANT_WAKE_FIRST
    cpu_wake(me);
    atomic { FENCE(me) -> remote_soft = remote_soft | (1 << bitno) }
#else
    atomic { FENCE(me) -> remote_soft = remote_soft | (1 << bitno) };
    cpu_wake(me)
#endif
}

inline cpu_wake(me)
{
    FENCE(me);
    if
    :: sleeping ->
        atomic {                        /* ns_xchg_u32(&lapic.sleeping, 0) */
            FENCE(me);
            if
            :: sleeping -> sleeping = 0; eventfd = 1
            :: else
            fi
        }
    :: else
    fi
}

proctype source(byte me, bitno, posts)
{
    byte n = 0;
    do
    :: n == posts -> break
    :: else ->
        n++;
        STORE(me, W_PUT, n);
        post(me, bitno)
    od
}

proctype hard()                         /* on CPU 0, between any two steps of what runs there */
{
    atomic {
        put[HARD] = 1;
        softint_schedule(0);
        if
        :: !is_awake -> eventfd = 1
        :: else
        fi
    }
}

init {
    atomic {
        run cpu();
        run source(REMOTE, 1, POSTS);
        run source(DEVICE, 0, 1);
        run hard()
    };
    timeout -> assert(done[HARD] == 1 && done[REMOTE] == POSTS && done[DEVICE] == 1)
}
