/* Removal of a bridge member (paper §3.2.2): bridge_delete_member of netstack/net/bridge_iflist.py with
 * kern/pserialize.py, kern/psref.py and the table of _fast/mactable.pxd.
 *
 * READERS CPUs serve frames of the member that is to go: inside a read section they look it up, learn a source on it,
 * and may take a reference which they use and give back after the section.  One thread deletes the member:
 *
 *     unlink, wait for readers, remove its addresses, wait for references, free.
 *
 * Shown: nobody touches the member after it is freed; when delete returns no table entry names its port and none
 * appears later; delete returns (a wait that never ends is an invalid end state).
 *
 * Sequentially consistent on purpose: the fences of the grace period are the subject of pserialize.pml.
 */
#ifndef READERS
#define READERS 2
#endif
#ifndef ROUNDS
#define ROUNDS 2                /* sections of each CPU */
#endif

bit  linked = 1;                /* the member is in the list / port map */
bit  freed = 0;
bit  draining = 0;              /* psref: PsrefTarget.is_draining */
byte entries = 1;               /* table entries that name its port: at most one per CPU, and one from before */
bit  returned = 0;              /* delete has returned */
byte section[READERS];          /* odd inside a section, as psz_slot_t.sections */
byte held[READERS];             /* psref records of this CPU: PsrefTarget.records */

#define TOUCH   assert(!freed)

/* mac_learn of a source seen on the member's port: the table's lock makes it one step. */
inline learn()
{
    d_step {
        assert(!returned);              /* else an entry of a port that is gone appears */
        if
        :: entries <= READERS -> entries++
        :: else
        fi
    }
}

proctype cpu(byte me)
{
    byte n = 0;
    bit found;
    do
    :: n == ROUNDS -> break
    :: else ->
        n++;
#ifdef MUTANT_FOUND_OUTSIDE
        found = linked;
        section[me]++;                  /* pserialize_read_enter */
#else
        section[me]++;
        found = linked;
#endif
        if
        :: found ->
            TOUCH;
            learn();                    /* inside the section, as everybody does */
            if
            :: true ->                  /* work that may take longer: psref_acquire inside the section */
#ifdef MUTANT_LATE_REFERENCE
                section[me]++;
                TOUCH;
                held[me]++;
#else
                TOUCH;
                held[me]++;
                section[me]++;
#endif
                TOUCH;                  /* the work, outside any section */
#ifdef MUTANT_LEARN_OUTSIDE
                learn();
#endif
#ifdef MUTANT_EARLY_RELEASE
                held[me]--;
                TOUCH
#else
                TOUCH;
                held[me]--              /* psref_release */
#endif
            :: true -> TOUCH; section[me]++
            fi
        :: else -> section[me]++        /* pserialize_read_exit */
        fi
    od
}

inline perform()                        /* pserialize_perform: every section open now has ended */
{
    i = 0;
    do
    :: i == READERS -> break
    :: else ->
        was = section[i];
        if
        :: was & 1 -> section[i] != was
        :: else
        fi;
        i++
    od;
    i = 0
}

inline target_destroy()                 /* psref_target_destroy: no CPU has a record */
{
    draining = 1;
    i = 0;
    do
    :: i == READERS -> break
    :: else -> held[i] == 0; i++
    od;
    i = 0
}

proctype delete()
{
    byte i, was;
#ifdef MUTANT_PURGE_FIRST
    entries = 0;
#endif
#ifndef MUTANT_UNLINK_LAST
    linked = 0;
#endif
#ifdef MUTANT_REFERENCES_FIRST
    target_destroy();
#endif
#ifndef MUTANT_NO_PERFORM
    perform();
#endif
#ifdef MUTANT_UNLINK_LAST
    linked = 0;
#endif
#ifndef MUTANT_PURGE_FIRST
    entries = 0;                        /* BridgeRtable.purge, after the last learner has left */
#endif
#if !defined(MUTANT_REFERENCES_FIRST) && !defined(MUTANT_NO_REFERENCE_WAIT)
    target_destroy();
#endif
    freed = 1;
    assert(entries == 0);
    returned = 1
}

init {
    byte i;
    atomic {
        for (i : 0 .. READERS - 1) { run cpu(i) };
        run delete()
    }
}
