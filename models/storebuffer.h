/* A processor's store buffer (x86-TSO): a FIFO per CPU.  A store goes into the own buffer; memory gets it later, when
 * the process `drain` says so; a load looks at memory.  A word that only its own CPU reads early is kept as a local
 * copy by that CPU, so no load needs to look into the buffer.
 *
 * The model that includes this file defines NCPU, SB_DEPTH, the names of its buffered words (below 16) and
 * sb_apply(cpu, word, value), which writes memory.
 */
chan sb[NCPU] = [SB_DEPTH] of { byte, byte };

/* ns_store_*: blocks while the buffer is full, as a processor does. */
#define STORE(me, word, value)  sb[me]!word,value

/* ns_fence, and the start of any ns_xchg, ns_cas, ns_add, ns_or, ns_and (atomics.h): the own buffer is empty. */
#define FENCE(me)               empty(sb[me])

active proctype drain()
{
    byte cpu, word, value;
end:
    do
    :: d_step { sb[0]?word,value -> cpu = 0; sb_apply(cpu, word, value) }
#if NCPU > 1
    :: d_step { sb[1]?word,value -> cpu = 1; sb_apply(cpu, word, value) }
#endif
#if NCPU > 2
    :: d_step { sb[2]?word,value -> cpu = 2; sb_apply(cpu, word, value) }
#endif
#if NCPU > 3
    :: d_step { sb[3]?word,value -> cpu = 3; sb_apply(cpu, word, value) }
#endif
    od
}
