/* The grace period: netstack/_fast/pserialize.pxd.
 *
 * One writer replaces an object UPDATES times: publish the new one, perform, free the old one, which the next update
 * uses again.  READERS CPUs look at it.  An object that is read must not be free.  Every CPU, the writer's too, has a
 * store buffer of SB_DEPTH entries.
 *
 * Strategies, as psz_t.strategy: -DSEQCST, -DMEMBARRIER, -DSWITCH.
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef SECTIONS
#define SECTIONS 2              /* read sections (handlers for SWITCH) of each reader */
#endif
#ifndef UPDATES
#define UPDATES 2
#endif
#ifndef SB_DEPTH
#define SB_DEPTH 2
#endif
#define NCPU    (READERS + 1)
#define WRITER  READERS

#define FREE 0
#define LIVE 1

/* Memory.  psz_slot_t of each reader, and the pointer that the writer publishes. */
byte sections[READERS];         /* odd inside a section */
byte switches[READERS];
bit  idle[READERS];
byte pointer = 0;               /* object linked at present */
byte object[2];

#define W_SECTIONS 0            /* words that are stored through the buffer */
#define W_SWITCHES 1
#define W_IDLE     2
#define W_POINTER  3
inline sb_apply(cpu, word, value)
{
    if
    :: word == W_SECTIONS -> sections[cpu] = value
    :: word == W_SWITCHES -> switches[cpu] = value
    :: word == W_IDLE     -> idle[cpu] = value
    :: word == W_POINTER  -> pointer = value
    fi
}
#include "storebuffer.h"

/* Use an object inside the section that is open: two looks, with time between them. */
inline use_object()
{
    p = pointer;
    assert(object[p] == LIVE);
    assert(object[p] == LIVE)
}

#ifndef SWITCH
inline psz_read_enter()
{
    mine++;
    STORE(me, W_SECTIONS, mine);
#if defined(SEQCST) && !defined(MUTANT_NO_READER_FENCE)
    FENCE(me)
#endif
}

inline psz_read_exit()
{
    mine++;
    STORE(me, W_SECTIONS, mine)         /* release: a FIFO buffer never overtakes */
}

proctype reader(byte me)
{
    byte mine = 0, n = 0, p;
    do
    :: n == SECTIONS -> break
    :: else ->
        n++;
#ifdef MUTANT_LATE_ANNOUNCE
        p = pointer;
        psz_read_enter();
        assert(object[p] == LIVE);
        psz_read_exit()
#elif defined(MUTANT_EARLY_EXIT)
        psz_read_enter();
        p = pointer;
        psz_read_exit();
        assert(object[p] == LIVE)
#else
        psz_read_enter();
        use_object();
        psz_read_exit()
#endif
    od
}

#else /* SWITCH: handlers, switch points between them, idleness */

inline psz_switchpoint()
{
    mine++;
    STORE(me, W_SWITCHES, mine);
#ifndef MUTANT_NO_SWITCH_FENCE
    FENCE(me)
#endif
}

inline psz_idle(is_idle)
{
    STORE(me, W_IDLE, is_idle);
#ifndef MUTANT_IDLE_NO_FENCE
    if
    :: !is_idle -> FENCE(me)
    :: else
    fi
#endif
}

proctype reader(byte me)
{
    byte mine = 0, n = 0, p;
    do
    :: n == SECTIONS -> break
    :: n < SECTIONS -> n++;             /* a handler with a section */
        use_object();
#ifdef MUTANT_SECTION_OVER_SWITCH
        psz_switchpoint();
        psz_switchpoint();
        assert(object[p] == LIVE);
#endif
        psz_switchpoint()
    :: n < SECTIONS -> n++;             /* a handler without one */
        psz_switchpoint()
    :: n < SECTIONS -> n++;             /* a sleep */
#ifdef MUTANT_IDLE_IN_SECTION
        use_object();
        psz_idle(1);
        assert(object[p] == LIVE);
#else
        psz_idle(1);
#endif
        psz_idle(0)
    od;
    psz_idle(1)
}
#endif

byte noted[READERS];            /* psz_grace_t.snapshot and .left */
bit waits[READERS];

/* psz_perform_begin */
inline perform_begin()
{
#ifdef MEMBARRIER
    /* membarrier(2): each CPU executes a full barrier at some moment of the call. */
    FENCE(WRITER);
#ifndef MUTANT_NO_BARRIER
    i = 0;
    do
    :: i == READERS -> break
#ifdef MUTANT_BARRIER_CPU0
    :: i == 1 -> break
#endif
    :: else -> FENCE(i); i++
    od;
#endif
#else
#ifndef MUTANT_NO_WRITER_FENCE
    FENCE(WRITER);
#endif
#endif
    i = 0;
    do
    :: i == READERS -> break
    :: else ->
#ifdef SWITCH
        noted[i] = switches[i];
        waits[i] = 1;
#else
        d_step { noted[i] = sections[i]; waits[i] = noted[i] & 1 };
#endif
        i++
    od;
#ifdef MUTANT_CPU0_ONLY
    i = 1;
    do
    :: i == READERS -> break
    :: else -> waits[i] = 0; i++
    od;
#endif
    i = 0
}

/* psz_has_passed, psz_perform_poll: looked at again and again, CPU by CPU, in any order */
#ifdef SWITCH
#define PASSES(n) (switches[n] - noted[n] >= 2 || idle[n] == 1)
#else
#define PASSES(n) (sections[n] != noted[n])
#endif

proctype writer()
{
    byte n = 0, i, old = 0;
    do
    :: n == UPDATES -> break
    :: else ->
        n++;
        object[1 - old] = LIVE;
#ifdef MUTANT_BARRIER_BEFORE_UNLINK
        perform_begin();
        STORE(WRITER, W_POINTER, 1 - old);
#elif defined(MUTANT_FREE_BEFORE_UNLINK)
        perform_begin();
#else
        STORE(WRITER, W_POINTER, 1 - old);
        perform_begin();
#endif
#ifndef MUTANT_NO_WAIT
        do
        :: waits[0] && PASSES(0) -> waits[0] = 0
#if READERS > 1
        :: waits[1] && PASSES(1) -> waits[1] = 0
#endif
#if READERS > 2
        :: waits[2] && PASSES(2) -> waits[2] = 0
        :: !waits[0] && !waits[1] && !waits[2] -> break
#elif READERS > 1
        :: !waits[0] && !waits[1] -> break
#else
        :: !waits[0] -> break
#endif
        od;
#endif
#ifdef MUTANT_FREE_BEFORE_UNLINK
        object[old] = FREE;
        STORE(WRITER, W_POINTER, 1 - old);
#endif
        object[old] = FREE;
        old = 1 - old
    od
}

init {
    byte i;
    atomic {
        object[0] = LIVE;
        for (i : 0 .. READERS - 1) { run reader(i) };
        run writer()
    }
}
