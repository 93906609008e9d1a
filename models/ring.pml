/* Rings between CPUs without a lock, under a weak memory order: stores of a CPU reach memory in any order, except that a
 * release store waits for all earlier ones (so the models also speak for processors weaker than x86).
 *
 *   -DPCQ    many producers, one consumer, woken by a posted softint: pcq_put and pcq_get of netstack/_fast/pcq.pxd;
 *   -DDRING  a descriptor ring of a device and a driver: status and tail as in hwrx_* of wire.pyx / cable.pxd and
 *            rx_ring of stages.pxd.
 *
 * Shown: every item arrives once, whole, in the order of its producer, over a wrap of the indices (they are 3 bits here
 * and start below the wrap); when nothing moves any more nothing is left in the ring.
 */
#ifndef ITEMS
#define ITEMS 2                 /* of each producer */
#endif
#define SLOTS 2
#define INDEX(n) ((n) & 7)      /* 32 bits in the code */
#define START 6
#define NONE 0

#define NCPU 3
#define CONSUMER 2

/* A store buffer without order: each CPU's pending stores; `drain` takes any of them. */
chan sb[NCPU] = [3] of { byte, byte, byte };    /* word, index, value */
#define STORE(me, word, index, value)   sb[me]!word,index,value
#define EARLIER(me)                     empty(sb[me])

#define W_PAYLOAD 0
#define W_SLOT    1
#define W_HEAD    2
#define W_TAIL    3
#define W_STATUS  4

byte payload[6];                /* what an item points to: written before it is published */
byte slot[SLOTS];               /* pcq: item or NONE.  Descriptor ring: item given in the descriptor's nbytes */
bit  status[SLOTS];             /* DESC_DD */
byte head = START, tail = START;

active proctype drain()
{
    byte index, value;
end:
    do
    :: d_step { sb[0]??W_PAYLOAD,index,value -> payload[index] = value }
    :: d_step { sb[0]??W_SLOT,index,value -> slot[index] = value }
    :: d_step { sb[0]??W_STATUS,index,value -> status[index] = value }
    :: d_step { sb[1]??W_PAYLOAD,index,value -> payload[index] = value }
    :: d_step { sb[1]??W_SLOT,index,value -> slot[index] = value }
    :: d_step { sb[2]??W_SLOT,index,value -> slot[index] = value }
    :: d_step { sb[2]??W_STATUS,index,value -> status[index] = value }
    :: d_step { sb[2]??W_HEAD,index,value -> head = value }
    :: d_step { sb[2]??W_TAIL,index,value -> tail = value }
    od
}

byte taken;                     /* items the consumer has */
byte last[2];                   /* newest of each producer */

/* Item n (from 1) of producer p is p * ITEMS + n. */
inline check(item)
{
    d_step {
        assert(item != NONE);
        assert(payload[item] == item);
        assert((item - 1) % ITEMS == last[(item - 1) / ITEMS]);         /* the next of its producer */
        last[(item - 1) / ITEMS] = last[(item - 1) / ITEMS] + 1;
        taken++
    }
}

#ifdef PCQ
bit wake;                       /* the consumer's softint is posted: RMWs, so no buffer */

proctype producer(byte me)
{
    byte n = 0, item, mytail, used;
    do
    :: n == ITEMS -> break
    :: else ->
        n++;
        item = me * ITEMS + n;
#ifndef MUTANT_PAYLOAD_LATE
        STORE(me, W_PAYLOAD, item, item);
#endif
again:
        mytail = tail;
        used = INDEX(mytail - head);
        if
        :: used >= 4 -> goto again      /* <int> used < 0: tail is old */
#ifdef MUTANT_FULL_LATE
        :: used > SLOTS && used < 4 ->
#else
        :: used >= SLOTS && used < 4 ->
#endif
            head != INDEX(mytail - SLOTS) || tail != mytail;    /* full: the caller comes back when it is not */
            goto again
        :: else
        fi;
#ifdef MUTANT_CLAIM_IN_TWO_STEPS
        tail = INDEX(mytail + 1);
#else
        atomic {                        /* ns_cas_u32 of tail: a full barrier */
            EARLIER(me);
            if
            :: tail == mytail -> tail = INDEX(mytail + 1)
            :: else -> goto again
            fi
        };
#endif
#ifdef MUTANT_WAKE_BEFORE_FILL
        atomic { EARLIER(me) -> wake = 1 };
        STORE(me, W_SLOT, mytail % SLOTS, item)
#else
#ifdef MUTANT_PAYLOAD_LATE
        STORE(me, W_SLOT, mytail % SLOTS, item);
        STORE(me, W_PAYLOAD, item, item);
#else
        EARLIER(me);                    /* release */
        STORE(me, W_SLOT, mytail % SLOTS, item);
#endif
        atomic { EARLIER(me) -> wake = 1 }
#endif
    od
}

proctype consumer()
{
    byte item, mine = START;
end:
    do
    :: wake ->
        wake = 0;
        do
        :: sb[CONSUMER]??[W_SLOT,_,_] -> EARLIER(CONSUMER)      /* reads its own store back: simply wait for it */
        :: else ->
            item = slot[mine % SLOTS];
            if
            :: item == NONE -> break
            :: else
            fi;
            check(item);
            mine = INDEX(mine + 1);
#ifdef MUTANT_HEAD_FIRST
            STORE(CONSUMER, W_HEAD, 0, mine);
            STORE(CONSUMER, W_SLOT, INDEX(mine - 1) % SLOTS, NONE)
#else
            STORE(CONSUMER, W_SLOT, INDEX(mine - 1) % SLOTS, NONE);
#ifndef MUTANT_HEAD_RELAXED
            EARLIER(CONSUMER);          /* release */
#endif
            STORE(CONSUMER, W_HEAD, 0, mine)
#endif
        od
    od
}

init {
    atomic { run producer(0); run producer(1); run consumer() };
    timeout -> assert(taken == 2 * ITEMS && head == tail && slot[0] == NONE && slot[1] == NONE)
}

#else /* DRING */
#define TOTAL (2 * ITEMS)

bit cause;                      /* the device's interrupt: RMWs (intr_raise) */

/* The device fills the descriptor it owns and sets DD. */
proctype device()
{
    byte n = 0, at = START;
    do
    :: n == TOTAL -> break
    :: else ->
#ifdef MUTANT_DEVICE_IGNORES_TAIL
        skip;
#else
        INDEX(tail - at) > 0 && INDEX(tail - at) < 4;   /* a descriptor was given: tail, acquire */
#endif
        n++;
        STORE(0, W_PAYLOAD, n, n);
        STORE(0, W_SLOT, at % SLOTS, n);
#ifndef MUTANT_DONE_RELAXED
        EARLIER(0);                     /* release */
#endif
        STORE(0, W_STATUS, at % SLOTS, 1);
        at = INDEX(at + 1);
        atomic { EARLIER(0) -> cause = 1 }
    od
}

proctype driver()
{
    byte item, next = START, mine = INDEX(START + SLOTS);
    STORE(CONSUMER, W_TAIL, 0, mine);
end:
    do
    :: cause ->
        cause = 0;
        do
        :: sb[CONSUMER]??[W_STATUS,_,_] -> EARLIER(CONSUMER)
        :: else ->
#ifdef MUTANT_READ_BEFORE_DONE
            item = slot[next % SLOTS];
            if
            :: status[next % SLOTS] == 0 -> break
            :: else
            fi;
#else
            if
            :: status[next % SLOTS] == 0 -> break       /* acquire: the rest is read after */
            :: else
            fi;
            item = slot[next % SLOTS];
#endif
            check(item);
            next = INDEX(next + 1);
            mine = INDEX(mine + 1);
            STORE(CONSUMER, W_STATUS, INDEX(next - 1) % SLOTS, 0);
#ifndef MUTANT_TAIL_RELAXED
            EARLIER(CONSUMER);          /* release */
#endif
            STORE(CONSUMER, W_TAIL, 0, mine)
        od
    od
}

init {
    atomic { run device(); run driver() };
    timeout -> assert(taken == TOTAL)
}
#endif
