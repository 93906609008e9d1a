"""Torture on real threads, and what it can do to locks and grace periods (paper §3.1.1, §3.1.3).

A torture runs code of the release headers on threads of the host with random delays and counts three things: what was
done; *near misses*, which say whether the pressure was enough to judge; *violations*, of which there must be none.  A
mutant breaks the tortured code in one named way, inside this module only, and shows that the torture can fail.

Context: control threads.  Not for judging memory order: on x86 a run without violations says nothing about fences;
that is what ``models/`` are for.
Source:  after the plan of Linux's rcutorture: an object grows one grace period older at a time, and a reader must
         never hold one that is older than one.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from netstack._fast.atomics cimport ns_load_ptr, ns_load_u32, ns_load_u64, ns_store_ptr, ns_store_u32, ns_store_u64
from netstack._fast.lines cimport own_lines
from netstack._fast.lock cimport spin_t, spin_try, spin_enter, spin_exit
from netstack._fast.pserialize cimport (PSerialize, psz_t, psz_grace_t, psz_read_enter, psz_read_exit, psz_switchpoint,
                                        psz_idle, psz_perform_begin, psz_perform_poll)

THREADS_MAX = int(PARTY_MAX)


cdef void *member_main(void *arg) noexcept nogil:
    """A thread: meet at the gate, then work."""
    cdef member_t *me = <member_t *> arg
    cdef uint32_t spins = 0
    ns_add_u32(&me.party.arrived, 1)
    while ns_load_u32(&me.party.arrived, RELAXED) < me.party.n:
        wait_a_little(&spins)
    if ns_load_u32(&me.party.is_void, ACQREL) == 0:
        me.party.work(me)
    return NULL


cdef int party_run(party_t *party, member_t *members, uint64_t ns) noexcept nogil:
    """Let all threads work for a time; 0, or the errno of a thread that could not be made."""
    cdef uint32_t i, made = 0
    cdef int error = 0
    cdef uint64_t end
    ns_store_u32(&party.arrived, 0, RELAXED)
    ns_store_u32(&party.stop, 0, RELAXED)
    ns_store_u32(&party.stutter, 0, RELAXED)
    ns_store_u32(&party.met, 0, RELAXED)
    ns_store_u32(&party.is_void, 0, RELAXED)
    for i in range(party.n):
        error = pthread_create(&members[i].thread, NULL, member_main, &members[i])
        if error:
            ns_store_u32(&party.is_void, 1, ACQREL)
            ns_add_u32(&party.arrived, party.n)      # those at the gate go home
            break
        made += 1
    end = clock_ns() + ns
    while error == 0 and clock_ns() < end:
        doze(45000000 if end - clock_ns() > 45000000 else 1000000)
        ns_store_u32(&party.stutter, 1, RELAXED)
        doze(2000000)
        ns_store_u32(&party.stutter, 0, RELAXED)
    ns_store_u32(&party.stop, 1, ACQREL)
    for i in range(made):
        pthread_join(members[i].thread, NULL)
    return error


cdef class Torture:
    """``threads`` threads (2 to 32) with lots drawn from ``seed``; ``mutant`` is a word of ``MUTANTS``.

    Raises ValueError for a number of threads out of range or an unknown mutant.
    """

    MUTANTS = ()
    COUNTS = ()
    VIOLATIONS = ()

    def __cinit__(self, threads: int, seed: int = 0, *args, mutant: str = "", **options):
        cdef uint32_t i
        if not 2 <= threads <= PARTY_MAX:
            raise ValueError(f"a torture needs 2..{PARTY_MAX} threads, not {threads}")
        if mutant and mutant not in self.MUTANTS:
            raise ValueError(f"no mutant {mutant!r}: one of {', '.join(self.MUTANTS)}")
        self.mutant = mutant
        self.seconds = 0.0
        self.party = <party_t *> own_lines(sizeof(party_t))
        self.members = <member_t *> own_lines(threads * sizeof(member_t))
        self.party.n = threads
        self.party.mutant = 1 + self.MUTANTS.index(mutant) if mutant else 0
        for i in range(threads):
            self.members[i].party = self.party
            self.members[i].index = i
            self.members[i].rng = (<uint64_t> ((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
                                   ^ (<uint64_t> (i + 1) * <uint64_t> 0xD1342543DE82EF95)) | 1

    def __dealloc__(self):
        free(self.party)
        free(self.members)

    cdef void begin(self, work_fn work, void *state) noexcept:
        self.party.work = work
        self.party.state = state

    def run(self, seconds: float) -> None:
        """Torture for a time; the GIL is released.  May be called again: counts add up.

        Raises OSError when the host gives no more threads.
        """
        cdef uint64_t ns = <uint64_t> (seconds * 1e9)
        cdef int error
        if self.party.work == NULL:
            raise TypeError("a Torture of no kind: use one of its subclasses")
        with nogil:
            error = party_run(self.party, self.members, ns)
        if error:
            raise OSError(error, f"cannot start {self.party.n} threads")
        self.seconds += seconds

    @property
    def threads(self) -> int:
        return self.party.n

    @property
    def counts(self) -> dict:
        """What was done, by kind; ``near_misses`` among it."""
        cdef uint32_t i, kind
        found = {}
        for kind, name in enumerate(self.COUNTS):
            found[name] = sum(self.members[i].tally.count[kind] for i in range(self.party.n))
        return found

    @property
    def violations(self) -> dict:
        """What must not happen, by kind."""
        cdef uint32_t i, kind
        found = {}
        for kind, name in enumerate(self.VIOLATIONS):
            found[name] = sum(self.members[i].tally.bad[kind] for i in range(self.party.n))
        return found


# Grace periods.

cdef enum:
    AGES = 10                    # an object that is this old may be used again
    OBJECTS = 12
    POISON = 0xDEADDEADDEADDEAD
    GRACE_NO_WAIT = 1            # in the order of MUTANTS
    GRACE_ONE_CPU = 2
    GRACE_LATE_ANNOUNCE = 3
    GRACE_EARLY_EXIT = 4
    GRACE_STALL_S = 20

cdef struct object_t:
    uint64_t age                 # grace periods since it was unlinked; 0 while it is linked
    uint64_t payload             # POISON while nobody may look at it
    uint64_t lines[14]

cdef struct grace_t:
    psz_t *psz
    void *current                # object_t that readers find
    uint64_t lines[14]
    object_t object[OBJECTS]


cdef void grace_perform(member_t *me, grace_t *state) noexcept nogil:
    """psz_perform: as ``PSerialize.perform``, but waits busily."""
    cdef psz_grace_t grace
    cdef uint32_t spins = 0, i
    cdef uint64_t begin = clock_ns()
    psz_perform_begin(state.psz, &grace)
    if me.party.mutant == GRACE_NO_WAIT:
        return
    if me.party.mutant == GRACE_ONE_CPU:
        for i in range(1, state.psz.ncpu):
            grace.left[i] = 0
    while psz_perform_poll(state.psz, &grace):
        wait_a_little(&spins)
        if spins & 4095 == 0 and clock_ns() - begin > <uint64_t> GRACE_STALL_S * 1000000000:
            me.tally.bad[1] += 1
            return


cdef void grace_writer(member_t *me) noexcept nogil:
    """Publish, unlink, perform; every grace period makes what is unlinked one older."""
    cdef grace_t *state = <grace_t *> me.party.state
    cdef object_t *old
    cdef object_t *new
    cdef uint32_t i
    while goes_on(me):
        new = NULL
        for i in range(OBJECTS):
            if state.object[i].age >= AGES:
                new = &state.object[i]
                break
        old = <object_t *> ns_load_ptr(&state.current, RELAXED)
        if new != NULL:
            ns_store_u64(&new.payload, me.tally.count[3] + 1, RELAXED)
            ns_store_u64(&new.age, 0, RELAXED)
            ns_store_ptr(&state.current, new, ACQREL)
            ns_store_u64(&old.age, 1, RELAXED)
        grace_perform(me, state)
        me.tally.count[3] += 1
        for i in range(OBJECTS):
            if 0 < state.object[i].age < AGES:
                if state.object[i].age == AGES - 1:
                    ns_store_u64(&state.object[i].payload, <uint64_t> POISON, RELAXED)
                ns_store_u64(&state.object[i].age, state.object[i].age + 1, ACQREL)
        if chance(me) & 63 == 0:
            linger(chance(me))


cdef void grace_performer(member_t *me) noexcept nogil:
    """A second performer, at its own pace: grace periods overlap."""
    cdef grace_t *state = <grace_t *> me.party.state
    while goes_on(me):
        grace_perform(me, state)
        me.tally.count[3] += 1
        doze(chance(me) & 0xFFFF)


cdef inline void grace_section(member_t *me, grace_t *state, uint32_t cpu) noexcept nogil:
    """One read section: how old is the object at its end?"""
    cdef object_t *found
    cdef uint64_t age, payload, lot = chance(me)
    cdef uint32_t mutant = me.party.mutant
    if mutant == GRACE_LATE_ANNOUNCE:
        found = <object_t *> ns_load_ptr(&state.current, ACQREL)
        linger(lot >> 17)
        psz_read_enter(state.psz, cpu)
    else:
        psz_read_enter(state.psz, cpu)
        found = <object_t *> ns_load_ptr(&state.current, ACQREL)
    if mutant == GRACE_EARLY_EXIT:
        psz_read_exit(state.psz, cpu)
        psz_idle(state.psz, cpu, True)       # what ends a section for the strategy "switch"
    linger(lot)
    payload = ns_load_u64(&found.payload, RELAXED)
    age = ns_load_u64(&found.age, RELAXED)
    if mutant == GRACE_EARLY_EXIT:
        psz_idle(state.psz, cpu, False)
    else:
        psz_read_exit(state.psz, cpu)
    me.tally.count[0] += 1
    if age == 1:
        me.tally.count[1] += 1
    elif age > 1 or payload == <uint64_t> POISON:
        me.tally.bad[0] += 1
        me.tally.count[2] += age >= AGES or payload == <uint64_t> POISON


cdef void grace_reader(member_t *me) noexcept nogil:
    """Sections, switch points between them, idleness now and then."""
    cdef grace_t *state = <grace_t *> me.party.state
    cdef uint32_t cpu = me.index, i
    cdef uint64_t lot
    while goes_on(me):
        psz_idle(state.psz, cpu, False)
        for i in range(512):
            grace_section(me, state, cpu)
            if i & 7 == 0:
                psz_switchpoint(state.psz, cpu)
        psz_idle(state.psz, cpu, True)
        lot = chance(me)
        if lot & 255 == 0:
            doze(lot >> 32 & 0x3FFFF)


cdef void grace_member(member_t *me) noexcept nogil:
    cdef grace_t *state = <grace_t *> me.party.state
    if me.index < state.psz.ncpu:
        grace_reader(me)
    elif me.index == me.party.n - 1:
        grace_writer(me)
    else:
        grace_performer(me)


cdef class GraceTorture(Torture):
    """Readers, a writer, and from 5 threads on a second performer, over one strategy of ``PSerialize``.

    The objects of the writer are aged by grace periods.  A reader that finds age 1 at the end of its section was
    there while the object was unlinked: the near miss.  Age 2 or more is a violation.  The mutant "late_announce" is
    none for the strategy "switch", whose readers announce nothing.
    """

    MUTANTS = ("no_wait", "one_cpu", "late_announce", "early_exit")
    COUNTS = ("sections", "near_misses", "poisoned", "grace_periods")
    VIOLATIONS = ("too_old", "stalled")
    cdef grace_t *state
    cdef readonly PSerialize psz

    def __init__(self, threads: int, seed: int = 0, strategy: str = "auto", *, mutant: str = ""):
        cdef uint32_t i
        readers = threads - 1 if threads < 5 else threads - 2
        self.psz = PSerialize(readers, strategy)
        self.state = <grace_t *> own_lines(sizeof(grace_t))
        self.state.psz = &self.psz.psz
        for i in range(OBJECTS):
            self.state.object[i].age = AGES
            self.state.object[i].payload = <uint64_t> POISON
        self.state.object[0].age = self.state.object[0].payload = 0
        self.state.current = &self.state.object[0]
        for i in range(readers):
            psz_idle(&self.psz.psz, i, True)
        self.begin(grace_member, self.state)

    def __dealloc__(self):
        free(self.state)


# Spin locks.

cdef enum:
    LOCK_TRY_IN_TWO_STEPS = 1
    LOCK_EXIT_EARLY = 2

cdef struct lock_t:
    spin_t lock
    uint64_t lines0[14]
    uint64_t first               # plain: what the lock guards; equal outside of it
    uint64_t second
    uint64_t owner
    uint64_t lines1[13]


cdef bint lock_try(member_t *me, spin_t *lock) noexcept nogil:
    if me.party.mutant == LOCK_TRY_IN_TWO_STEPS:
        if ns_load_u32(&lock.word, RELAXED):
            return False
        linger(chance(me))
        ns_store_u32(&lock.word, 1, RELAXED)
        return True
    return spin_try(lock)


cdef void lock_member(member_t *me) noexcept nogil:
    cdef lock_t *state = <lock_t *> me.party.state
    cdef uint64_t lot, before
    while goes_on(me):
        lot = chance(me)
        if lot >> 40 & 1:
            if not lock_try(me, &state.lock):
                me.tally.count[1] += 1
                linger(lot)
                continue
        else:
            me.tally.count[1] += ns_load_u32(&state.lock.word, RELAXED) != 0
            spin_enter(&state.lock)
        ns_store_u64(&state.owner, me.index, RELAXED)
        before = ns_load_u64(&state.first, RELAXED)
        me.tally.bad[0] += before != ns_load_u64(&state.second, RELAXED)
        ns_store_u64(&state.first, before + 1, RELAXED)
        if me.party.mutant == LOCK_EXIT_EARLY:
            spin_exit(&state.lock)
        linger(lot >> 7)
        me.tally.bad[0] += ns_load_u64(&state.owner, RELAXED) != me.index
        ns_store_u64(&state.second, before + 1, RELAXED)
        if me.party.mutant != LOCK_EXIT_EARLY:
            spin_exit(&state.lock)
        me.tally.count[0] += 1


cdef class LockTorture(Torture):
    """One spin lock, entered and tried by all; what it guards shows when two were inside."""

    MUTANTS = ("try_in_two_steps", "exit_early")
    COUNTS = ("acquisitions", "near_misses")
    VIOLATIONS = ("two_inside", "lost_updates")
    cdef lock_t *state

    def __init__(self, threads: int, seed: int = 0, *, mutant: str = ""):
        self.state = <lock_t *> own_lines(sizeof(lock_t))
        self.begin(lock_member, self.state)

    def __dealloc__(self):
        free(self.state)

    @property
    def violations(self) -> dict:
        found = Torture.violations.__get__(self)
        done = self.counts["acquisitions"]
        found["lost_updates"] = max(0, done - self.state.second) + max(0, done - self.state.first)
        return found
