/* if_transmit of several CPUs on one TX queue, with the try-lock handover: txq_transmit, tx_drain, tx_handover and
 * tx_complete of netstack/_fast/transmit.pxd, ifq_put and ifq_get of ifqueue.pxd, spin_try and spin_exit of lock.pxd.
 *
 * Several CPUs send a few frames each; a device with a ring of RING slots sends them some time and interrupts one more
 * CPU, which does TX completion.  What is looked at without its lock goes through store buffers: the lock words,
 * if_snd's head and tail, is_full.
 *
 * Shown: when nothing moves any more every frame has been sent; one CPU at a time has the ring; the frames of one CPU
 * leave in order.
 */
#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef FRAMES
#define FRAMES 2                /* of the first sender; the others send OTHERS */
#endif
#ifndef OTHERS
#define OTHERS 1
#endif
#ifndef RING
#define RING 1
#endif
#define NCPU     (SENDERS + 1)
#define SB_DEPTH 3
#define COMPLETER SENDERS
#define TOTAL    (FRAMES + (SENDERS - 1) * OTHERS)

bit  lock;                      /* txq_t.lock */
bit  snd_lock;                  /* ifqueue_t.lock */
byte head, tail;                /* if_snd */
byte snd[TOTAL];                /* frames in it: CPU that sent them */
byte snd_seq[TOTAL];
bit  is_full;
byte given, done;               /* descriptors the device has, and has sent; guarded by lock but for the device */
bit  interrupt;                 /* TX completion is pending on CPU COMPLETER */
byte sent;                      /* reclaimed */
byte inside;                    /* CPUs that have the TX mutex: a check */
byte last[SENDERS];             /* last frame of each CPU that entered the ring: a check */

#define W_UNLOCK 0
#define W_TAIL   1              /* with the release of snd_lock that follows it: nobody can tell them apart */
#define W_HEAD   2
#define W_FULL   3
inline sb_apply(cpu, word, value)
{
    if
    :: word == W_UNLOCK -> lock = 0
    :: word == W_TAIL   -> tail = value; snd_lock = 0
    :: word == W_HEAD   -> head = value; snd_lock = 0
    :: word == W_FULL   -> is_full = value
    fi
}
#include "storebuffer.h"

/* A CPU reads its own store back before memory has it. */
#define OWN(word)       sb[me]??[word,_]
#define LOCK_SEEN       (OWN(W_UNLOCK) -> 0 : lock)
#define TAIL_SEEN       (OWN(W_TAIL) -> mytail : tail)
#define HEAD_SEEN       (OWN(W_HEAD) -> myhead : head)
#define FULL_SEEN       (OWN(W_FULL) -> myfull : is_full)
#define ifq_len         (TAIL_SEEN - HEAD_SEEN)

inline spin_try()               /* mine := got it */
{
    if
    :: LOCK_SEEN != 0 -> mine = 0
    :: else ->
#ifdef MUTANT_TRY_NOT_ATOMIC
        FENCE(me);
        lock = 1;
        mine = 1;
        enter_check()
#else
        atomic {
            FENCE(me);
            if
            :: lock == 0 -> lock = 1; mine = 1; enter_check()
            :: else -> mine = 0
            fi
        }
#endif
    fi
}

inline enter_check() { inside++; assert(inside == 1) }

inline spin_exit() { atomic { inside--; STORE(me, W_UNLOCK, 0) } }

inline ifq_put(seq)
{
    atomic { FENCE(me) && snd_lock == 0 -> snd_lock = 1 };
    d_step {
        snd[tail] = me;
        snd_seq[tail] = seq;
        mytail = tail + 1
    };
    STORE(me, W_TAIL, mytail)
}

inline to_ring(cpu, seq)
{
    d_step {
        assert(seq == last[cpu] + 1);
        last[cpu] = seq;
        given++
    }
}

inline tx_reclaim() { d_step { sent = sent + done; given = given - done; done = 0 } }

inline tx_drain()
{
    do
    :: ifq_len == 0 -> break
    :: else ->
        if
        :: given == RING -> tx_reclaim()
        :: else
        fi;
        if
        :: given == RING ->
#ifndef MUTANT_FULL_AFTER_EXIT
            myfull = 1;
            STORE(me, W_FULL, 1);
#endif
            break
        :: else
        fi;
        atomic { FENCE(me) && snd_lock == 0 -> snd_lock = 1 };  /* ifq_get */
        myhead = head + 1;
        d_step {
            to_ring(snd[head], snd_seq[head]);
            snd[head] = 0;
            snd_seq[head] = 0
        };
        STORE(me, W_HEAD, myhead)
    od
}

inline tx_handover()
{
#ifndef MUTANT_NO_HANDOVER_FENCE
    d_step { FENCE(me) -> mytail = 0; myhead = 0; myfull = 0 };
#endif
    do
#ifdef MUTANT_NO_HANDOVER
    :: true -> break
#endif
    :: ifq_len == 0 || FULL_SEEN -> break
    :: else ->
        spin_try();
        if
        :: mine ->
            tx_drain();
            spin_exit();
#ifndef MUTANT_NO_HANDOVER_FENCE
            d_step { FENCE(me) -> mytail = 0; myhead = 0; myfull = 0 }
#endif
        :: else -> break
        fi
    od;
    mine = 0
}

proctype sender(byte me, frames)
{
    byte n = 0, mytail, myhead;
    bit mine, myfull, placed;
    do
    :: n == frames -> break
    :: else ->
        n++;
        placed = 0;
        spin_try();
        if
#ifdef MUTANT_OVERTAKE
        :: mine ->
#else
        :: mine && ifq_len == 0 ->
#endif
            if
            :: given == RING -> tx_reclaim()
            :: else
            fi;
            if
            :: given < RING -> to_ring(me, n); placed = 1
            :: else
            fi
        :: else
        fi;
        if
        :: !placed ->
            ifq_put(n);
            if
            :: !mine ->
#ifndef MUTANT_NO_SECOND_TRY
#ifndef MUTANT_NO_LOSER_FENCE
                FENCE(me);
#endif
                spin_try()
#endif
            :: else
            fi;
            if
            :: mine -> tx_drain()
            :: else
            fi
        :: else
        fi;
        if
        :: mine ->
            spin_exit();
#ifdef MUTANT_FULL_AFTER_EXIT
            if
            :: given == RING -> myfull = 1; STORE(me, W_FULL, 1)
            :: else
            fi;
#endif
            tx_handover()
        :: else
        fi
    od
}

proctype completer(byte me)
{
    byte mytail, myhead;
    bit mine, myfull;
end:
    do
    :: interrupt ->
        interrupt = 0;
        atomic { FENCE(me) && lock == 0 -> lock = 1; enter_check() };   /* spin_enter */
        tx_reclaim();
#ifndef MUTANT_COMPLETE_KEEPS_FULL
        myfull = 0;
        STORE(me, W_FULL, 0);
#endif
        tx_drain();
        spin_exit();
        tx_handover()
    od
}

proctype device()
{
end:
    do
    :: given > done -> d_step { done++; interrupt = 1 }
    od
}

init {
    byte i;
    atomic {
        run sender(0, FRAMES);
        for (i : 1 .. SENDERS - 1) { run sender(i, OTHERS) };
        run completer(COMPLETER);
        run device()
    };
    timeout -> assert(head == tail && sent == TOTAL && inside == 0)
}
