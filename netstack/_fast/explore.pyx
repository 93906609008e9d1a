"""The compiled tier of the schedule explorer: scenarios on the kernels' own inlines, run by the million.

A scenario is a world, what each logical CPU does in it, and what must hold.  ``explorer.pxd`` runs it one shared access
at a time, as a chooser decides; ``SCENARIOS`` lists them, ``MUTANTS`` the errors that can be planted to see that they
would be found.  The code under test is that of the release kernels, compiled once more with the hooks of ``atomics.h``.

Context: any thread; the GIL is released while schedules run, and several threads may explore at once.
Limits:  what no schedule can show is said in ``UNSEEN``.
"""
from collections import namedtuple as _namedtuple

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from netstack._fast.atomics cimport ns_explore_set
from netstack._fast.chooser cimport Chooser
from netstack._fast.explorer cimport (explorer_t, scenario_t, explorer_run, explorer_hook, explorer_store,
                                      explorer_load, violate, ns_stack_new, ns_stack_free, STACK_BYTES, KEPT_MAX,
                                      STEPS_MAX)
cimport netstack._fast.mutants as mut
cimport netstack._fast.scenario_bridge as sb
cimport netstack._fast.scenario_intr as si
cimport netstack._fast.scenario_queue as sq
cimport netstack._fast.scenario_sync as ss

cdef extern from *:
    """
    #define ns_mutant_set(id) (ns_mutant_on = (id))
    #define ns_kassert_set(fn) (ns_kassert_failed = (fn))
    """
    void ns_mutant_set(int id) noexcept nogil
    void ns_kassert_set(void (*fn)(const char *) noexcept nogil) noexcept nogil

cdef enum:
    CHUNK = 20000                # schedules between two looks for a signal
    SCENARIOS_MAX = 40
    DELAY_DEFAULT = 4            # stores a CPU may hold back when stores are delayed

UNSEEN = (
    "loads that pass loads, and what a compiler reorders",
    "the moment between a plain access and the shared access before it",
    "time: no schedule is more likely than another because something takes long",
)

Scenario = _namedtuple("Scenario", "name description ncpu mutants")
Scenario.__doc__ = "A compiled scenario: what it runs, on how many logical CPUs, and the mutants it must find."
Mutant = _namedtuple("Mutant", "name scenario breaks strategy delayed_stores budget")
Mutant.__doc__ = """A planted error.

breaks: what is wrong - strategy: the one that must find it - delayed_stores: whether stores must be delayed for that -
budget: schedules within which it is found, from any seed of the tests.
"""
Result = _namedtuple("Result", "schedules steps violations choices digest message is_exhausted")
Result.__doc__ = """What a run found.

schedules, steps: how many were run - violations: schedules that broke an invariant - choices: decisions of the first
that did (else empty), for ``replay`` - digest: 64 bits over the trace of that schedule, or over all traces when none
broke anything - message: what broke, "" for nothing - is_exhausted: a dfs has been through all schedules of its bound.
"""

SCENARIOS = {}
MUTANTS = {}

cdef scenario_t[SCENARIOS_MAX] TABLE
cdef dict _at = {}
cdef dict _mutant_id = {}


cdef scenario_t *_new(str name, int ncpu, str description) except NULL:
    cdef int at = len(SCENARIOS)
    if at == SCENARIOS_MAX:
        raise OverflowError("raise SCENARIOS_MAX")
    memset(&TABLE[at], 0, sizeof(scenario_t))
    TABLE[at].ncpu = ncpu
    _at[name] = at
    SCENARIOS[name] = Scenario(name, description, ncpu, ())
    return &TABLE[at]


cdef _plant(str scenario, str name, int id, str strategy, bint delayed, budget, str breaks):
    _mutant_id[name] = id
    MUTANTS[name] = Mutant(name, scenario, breaks, strategy, delayed, budget)
    SCENARIOS[scenario] = SCENARIOS[scenario]._replace(mutants=(*SCENARIOS[scenario].mutants, name))


cdef void _sync_scenarios():
    cdef scenario_t *s
    s = _new("spin-lock", 2, "two CPUs enter a spin lock, and try for it; one owner, no lost update")
    s.world_bytes = sizeof(ss.spin_world_t)
    s.setup, s.body, s.finish = ss.spin_setup, ss.spin_body, ss.spin_finish
    s = _new("pserialize-seqcst", 3, "a writer frees what two readers may hold; readers announce with a fence")
    s.world_bytes = sizeof(ss.psz_world_t)
    s.setup, s.body, s.finish = ss.psz_seqcst_setup, ss.psz_body, ss.psz_finish
    s = _new("pserialize-membarrier", 3, "the same; the writer makes every CPU run a barrier")
    s.world_bytes = sizeof(ss.psz_world_t)
    s.setup, s.body, s.finish = ss.psz_membarrier_setup, ss.psz_body, ss.psz_finish
    s = _new("pserialize-switch", 2, "the same; the writer waits for two switch points of every CPU")
    s.world_bytes = sizeof(ss.psz_world_t)
    s.setup, s.body, s.finish = ss.psz_switch_setup, ss.psz_switch_body, ss.psz_finish
    s = _new("pserialize-idle", 2, "switch points of a CPU that goes idle and comes back")
    s.world_bytes = sizeof(ss.psz_world_t)
    s.setup, s.body, s.finish = ss.psz_idle_setup, ss.psz_idle_body, ss.psz_finish
    s = _new("pserialize-nested", 2, "a reader is interrupted by a handler that reads, both inside one section")
    s.world_bytes = sizeof(ss.psz_world_t)
    s.setup, s.body, s.finish = ss.psz_seqcst_setup, ss.psz_nest_body, ss.psz_finish
    s.intr, s.intr_cpus, s.interrupts = ss.psz_nest_intr, 2, 2
    s = _new("idle-wake", 3, "a CPU goes to sleep while a softint and an interrupt are posted; no lost wake-up")
    s.world_bytes = sizeof(ss.idle_world_t)
    s.setup, s.body, s.finish = ss.idle_setup, ss.idle_body, ss.idle_finish
    s = _new("cpu-pause", 2, "the Python thread takes a CPU from its loop twice; one of them runs at a time")
    s.world_bytes = sizeof(ss.pause_world_t)
    s.setup, s.body, s.finish = ss.pause_setup, ss.pause_body, ss.pause_finish


cdef void _intr_scenarios():
    cdef scenario_t *s
    s = _new("softint-pending", 2, "a hard interrupt schedules a softint at any moment of its handler; no lost work")
    s.world_bytes = sizeof(si.soft_world_t)
    s.setup, s.body, s.finish = si.soft_setup, si.soft_hard_body, si.soft_hard_finish
    s.intr, s.intr_cpus, s.interrupts = si.soft_hard_intr, 1, 3
    s = _new("softint-post", 3, "two CPUs post softints to a third; no lost work")
    s.world_bytes = sizeof(si.soft_world_t)
    s.setup, s.body, s.finish = si.soft_setup, si.soft_remote_body, si.soft_remote_finish
    s = _new("msix-mask", 3, "a device interrupts while its vector is masked and unmasked; no lost cause")
    s.world_bytes = sizeof(si.msix_world_t)
    s.setup, s.body, s.finish = si.msix_setup, si.mask_body, si.msix_finish
    s = _new("msix-move", 3, "a device interrupts while its interrupt moves to another slot; no lost cause")
    s.world_bytes = sizeof(si.msix_world_t)
    s.setup, s.body, s.finish = si.msix_setup, si.msix_body, si.msix_finish


cdef void _queue_scenarios():
    cdef scenario_t *s
    s = _new("if-snd", 3, "two producers and a consumer on a bounded if_snd; order per producer, no loss")
    s.world_bytes = sizeof(sq.ifq_world_t)
    s.setup, s.body, s.finish = sq.ifq_setup, sq.ifq_body, sq.ifq_finish
    s = _new("tx-handover", 2, "two CPUs on one TX queue; who finds its mutex held is served by the holder")
    s.world_bytes = sizeof(sq.tx_world_t)
    s.setup, s.body, s.finish = sq.tx_setup, sq.tx_body, sq.tx_finish
    s = _new("tx-full", 3, "the same with a device that is full after one frame; completion starts the next")
    s.world_bytes = sizeof(sq.tx_world_t)
    s.setup, s.body, s.finish = sq.tx_full_setup, sq.tx_full_body, sq.tx_finish
    s = _new("pcq", 3, "two producers and a consumer on a lock-free queue of two; order per producer, no loss")
    s.world_bytes = sizeof(sq.pcq_world_t)
    s.setup, s.body, s.finish = sq.pcq_setup, sq.pcq_body, sq.pcq_finish
    s = _new("mbuf-depot", 2, "two magazines on a depot that is short; one user per mbuf, none lost")
    s.world_bytes = sizeof(sq.depot_world_t)
    s.setup, s.body, s.finish = sq.depot_setup, sq.depot_body, sq.depot_finish
    s = _new("rx-ring", 2, "device and driver on a receive ring of two slots; every frame once, in order, whole")
    s.world_bytes = sizeof(sq.ring_world_t)
    s.setup, s.body, s.finish = sq.ring_setup, sq.ring_body, sq.ring_finish


cdef void _bridge_scenarios():
    cdef scenario_t *s
    s = _new("mac-learn", 2, "two CPUs learn one station on two ports; one entry, whole")
    s.world_bytes = sizeof(sb.table_t)
    s.setup, s.body, s.finish = sb.learn_setup, sb.learn_body, sb.learn_finish
    s = _new("mac-age", 3, "a station is refreshed, moved, aged out and removed at once; counts and entries agree")
    s.world_bytes = sizeof(sb.table_t)
    s.setup, s.body, s.finish = sb.age_setup, sb.age_body, sb.age_finish
    s = _new("bridge-delete", 3, "a member is deleted while frames come from it and go to it; nothing of it is left")
    s.world_bytes = sizeof(sb.delete_world_t)
    s.setup, s.body, s.finish = sb.delete_setup, sb.delete_body, sb.delete_finish
    s = _new("bridge-flush", 3, "learned addresses are flushed by a new number, the old one serves another member")
    s.world_bytes = sizeof(sb.flush_world_t)
    s.setup, s.body, s.finish = sb.flush_setup, sb.flush_body, sb.flush_finish


cdef void _mutants():
    _plant("spin-lock", "spin-not-atomic", mut.MUT_SPIN_NOT_ATOMIC, "random", False, 1000,
           "a spin lock is tested and set in two steps")
    _plant("spin-lock", "spin-exit-relaxed", mut.MUT_SPIN_EXIT_RELAXED, "dfs", True, 1000,
           "a spin lock is released by a relaxed store")
    _plant("pserialize-seqcst", "psz-reader-no-fence", mut.MUT_PSZ_READER_NO_FENCE, "random", True, 1000,
           "a seqcst reader announces itself without a fence")
    _plant("pserialize-seqcst", "psz-writer-no-fence", mut.MUT_PSZ_WRITER_NO_FENCE, "dfs", True, 1000,
           "the writer looks at the readers before its unlink is visible")
    _plant("pserialize-seqcst", "psz-no-wait", mut.MUT_PSZ_NO_WAIT, "pct", False, 1000,
           "perform returns at once")
    _plant("pserialize-seqcst", "psz-first-cpu-only", mut.MUT_PSZ_FIRST_CPU_ONLY, "pct", False, 1000,
           "perform waits for CPU 0 only")
    _plant("pserialize-membarrier", "psz-no-membarrier", mut.MUT_PSZ_NO_MEMBARRIER, "random", True, 1000,
           "the membarrier strategy without the barrier")
    _plant("pserialize-switch", "psz-one-switch", mut.MUT_PSZ_ONE_SWITCH, "pct", True, 3000,
           "one switch point is enough, and none has a fence")
    _plant("pserialize-switch", "psz-switch-no-fence", mut.MUT_PSZ_SWITCH_NO_FENCE, "pct", True, 2000,
           "two switch points, neither has a fence")
    _plant("pserialize-idle", "psz-idle-no-fence", mut.MUT_PSZ_IDLE_NO_FENCE, "pct", True, 4000,
           "a CPU that comes back from idle has no fence")
    _plant("pserialize-nested", "psz-nest-flat", mut.MUT_PSZ_NEST_FLAT, "random", False, 2000,
           "a section inside a section is announced like one of its own")
    _plant("tx-full", "tx-complete-no-start", mut.MUT_TX_COMPLETE_NO_START, "random", False, 1000,
           "completion takes frames back and does not start what had to wait")
    _plant("bridge-flush", "number-reused-early", mut.MUT_NUMBER_REUSED_EARLY, "random", False, 1000,
           "a retired port number serves again before readers have left")
    _plant("bridge-flush", "number-not-swept", mut.MUT_NUMBER_NOT_SWEPT, "pct", False, 1000,
           "a retired port number serves again with its old entries in the table")
    _plant("idle-wake", "wake-no-fence", mut.MUT_WAKE_NO_FENCE, "dfs", True, 1000,
           "the waker looks at the sleeper before its work is visible")
    _plant("idle-wake", "idle-no-last-look", mut.MUT_IDLE_NO_LAST_LOOK, "dfs", False, 1000,
           "a CPU announces sleep and sleeps")
    _plant("idle-wake", "idle-no-fence", mut.MUT_IDLE_NO_FENCE, "dfs", True, 1000,
           "a CPU looks for work before its announcement of sleep is visible")
    _plant("cpu-pause", "resume-no-wait", mut.MUT_RESUME_NO_WAIT, "pct", True, 5000,
           "the Python thread gives a CPU back and does not wait until it is taken")
    _plant("softint-pending", "softint-clear-late", mut.MUT_SOFTINT_CLEAR_LATE, "random", False, 1000,
           "the PENDING bit goes off after the handler, not before")
    _plant("softint-post", "remote-take-not-atomic", mut.MUT_REMOTE_TAKE_NOT_ATOMIC, "dfs", False, 1000,
           "softints asked for by other CPUs are read, then cleared")
    _plant("msix-mask", "msix-no-recheck", mut.MUT_MSIX_NO_RECHECK, "random", False, 3000,
           "the sender sets the pending bit and does not look at the mask again")
    _plant("msix-mask", "unmask-no-pending", mut.MUT_UNMASK_NO_PENDING, "random", False, 1000,
           "unmasking does not look at the pending bit")
    _plant("msix-mask", "intr-enable-no-cause", mut.MUT_INTR_ENABLE_NO_CAUSE, "random", False, 2000,
           "enabling does not look at the cause that came meanwhile")
    _plant("msix-move", "move-unmasked", mut.MUT_MOVE_UNMASKED, "random", False, 1000,
           "an interrupt is moved without masking it")
    _plant("msix-move", "move-no-wait", mut.MUT_MOVE_NO_WAIT, "dfs", False, 1000,
           "an interrupt is moved while a message is on its way or its handler runs")
    _plant("if-snd", "ifq-put-unlocked", mut.MUT_IFQ_PUT_UNLOCKED, "random", False, 1000,
           "a frame is put into if_snd without its lock")
    _plant("tx-handover", "tx-no-recheck", mut.MUT_TX_NO_RECHECK, "dfs", False, 1000,
           "the holder of the TX mutex does not look at if_snd again after letting go")
    _plant("tx-handover", "tx-recheck-no-fence", mut.MUT_TX_RECHECK_NO_FENCE, "dfs", True, 1000,
           "it looks again, before its release is visible")
    _plant("pcq", "pcq-claim-not-atomic", mut.MUT_PCQ_CLAIM_NOT_ATOMIC, "random", False, 1000,
           "a producer claims a slot in two steps")
    _plant("pcq", "pcq-head-early", mut.MUT_PCQ_HEAD_EARLY, "pct", False, 1000,
           "the consumer frees a slot before it has emptied it")
    _plant("mbuf-depot", "depot-lock-gap", mut.MUT_DEPOT_LOCK_GAP, "random", False, 1000,
           "a magazine counts what the depot has, lets go of its lock, then takes")
    _plant("rx-ring", "ring-tail-early", mut.MUT_RING_TAIL_EARLY, "pct", False, 1000,
           "the doorbell is rung before the slot has its buffer")
    _plant("rx-ring", "ring-done-early", mut.MUT_RING_DONE_EARLY, "pct", False, 1000,
           "the device says done before the frame is in memory")
    _plant("mac-learn", "mac-no-recheck", mut.MUT_MAC_NO_RECHECK, "random", False, 1000,
           "a station is entered without looking again under the lock")
    _plant("mac-learn", "mac-two-halves", mut.MUT_MAC_TWO_HALVES, "dfs", False, 1000,
           "an entry is written in two halves")
    _plant("mac-age", "mac-refresh-by-store", mut.MUT_MAC_REFRESH_BY_STORE, "random", False, 1000,
           "a refresh is a store, not a compare-and-swap")
    _plant("bridge-delete", "unlink-after-wait", mut.MUT_UNLINK_AFTER_WAIT, "random", False, 1000,
           "a member leaves the list after the wait for readers")
    _plant("bridge-delete", "no-wait-for-references", mut.MUT_NO_WAIT_FOR_REFERENCES, "pct", False, 1000,
           "a member is freed while references are held")
    _plant("bridge-delete", "reference-outside", mut.MUT_REFERENCE_OUTSIDE, "pct", False, 1000,
           "the reference is taken after the read section")
    _plant("bridge-delete", "purge-before-wait", mut.MUT_PURGE_BEFORE_WAIT, "random", False, 1000,
           "a member's addresses are removed before the wait for readers, not after")
    _plant("bridge-delete", "map-freed-early", mut.MUT_MAP_FREED_EARLY, "pct", False, 1000,
           "a port map is freed without waiting for readers")


ns_explore_set(<void *> explorer_hook, <void *> explorer_store, <void *> explorer_load)
ns_kassert_set(violate)
_sync_scenarios()
_intr_scenarios()
_queue_scenarios()
_bridge_scenarios()
_mutants()


cdef class _Run:
    """Memory of an explorer: world, stacks, chooser; one thread's."""
    cdef explorer_t *ex
    cdef Chooser chooser
    cdef int mutant

    def __cinit__(self, name, Chooser chooser, mutant, delayed_stores, trace_room=0):
        cdef int c
        if name not in SCENARIOS:
            raise ValueError(f"no scenario {name!r}: one of {', '.join(SCENARIOS)}")
        if mutant and mutant not in MUTANTS:
            raise ValueError(f"no mutant {mutant!r}: one of {', '.join(MUTANTS)}")
        depth = DELAY_DEFAULT if delayed_stores is True else int(delayed_stores)
        if not 0 <= depth <= KEPT_MAX:
            raise ValueError(f"a CPU holds 0..{KEPT_MAX} stores back, not {depth}")
        self.chooser = chooser
        self.mutant = _mutant_id[mutant] if mutant else 0
        self.ex = <explorer_t *> calloc(1, sizeof(explorer_t))
        if self.ex == NULL:
            raise MemoryError()
        self.ex.ch = &chooser.ch
        self.ex.scenario = &TABLE[<int> _at[name]]
        self.ex.depth = depth
        self.ex.world = <char *> calloc(1, self.ex.scenario.world_bytes)
        self.ex.trace_room = trace_room
        if trace_room:
            self.ex.trace = <uint8_t *> calloc(trace_room, 8)
        if self.ex.world == NULL or (trace_room and self.ex.trace == NULL):
            raise MemoryError()
        for c in range(self.ex.scenario.ncpu):
            self.ex.cpu[c].stack = ns_stack_new(STACK_BYTES)
            if self.ex.cpu[c].stack == NULL:
                raise MemoryError()

    def __dealloc__(self):
        cdef int c
        if self.ex != NULL:
            for c in range(self.ex.scenario.ncpu):
                ns_stack_free(self.ex.cpu[c].stack, STACK_BYTES)
            free(self.ex.world)
            free(self.ex.trace)
            free(self.ex)

    cdef object run(self, uint64_t schedules, bint stop_at_first):
        """Up to so many schedules, in pieces between which a signal is heard."""
        cdef uint64_t done = 0, n, piece
        cdef int mutant = self.mutant
        choices, message, digest = b"", "", 0
        while done < schedules:
            piece = schedules - done
            # with stop_at_first off, stop at the first all the same, to keep its choices, then go on
            if piece > CHUNK:
                piece = CHUNK
            with nogil:
                ns_mutant_set(mutant)
                n = explorer_run(self.ex, piece, True)
                ns_mutant_set(0)
            done += n
            if self.ex.ch.is_short_of_memory:
                raise MemoryError("no memory for the decisions of a schedule")
            if self.ex.violations and not message:
                choices, digest = self.chooser.choices, self.ex.digest
                message = self.ex.message.decode()
                if self.ex.message_cpu >= 0:
                    message = f"CPU {self.ex.message_cpu}: {message}"
            if (self.ex.violations and stop_at_first) or n == 0 or self.ex.ch.is_exhausted:
                break
        return Result(int(done), int(self.ex.all_steps), int(self.ex.violations), choices,
                      int(digest if message else self.ex.all_digest), message, self.ex.ch.is_exhausted != 0)


def run(name: str, schedules: int, strategy: str = "random", seed: int = 0, mutant: str = "",
        delayed_stores: bool | int = False, stop_at_first: bool = True, depth: int = 3, preemptions: int = 2):
    """Run up to ``schedules`` schedules of a scenario; a ``Result``.

    ``delayed_stores``: True, or how many stores (1..8) a CPU may hold back.  ``stop_at_first`` off goes on after a
    violation; the result tells of the first.  ``depth`` is for "pct", ``preemptions`` for "dfs".
    Raises ValueError for an unknown name or a number out of range.
    """
    if schedules < 0:
        raise ValueError(f"the number of schedules is not negative: {schedules}")
    cdef _Run one = _Run(name, Chooser(strategy, seed, depth, preemptions), mutant, delayed_stores)
    return one.run(schedules, stop_at_first)


def replay(name: str, choices: bytes, mutant: str = "", delayed_stores: bool | int = False):
    """Run the one schedule that recorded decisions stand for; a ``Result``.

    Raises ValueError when they do not fit the scenario: other code, another mutant, or stores delayed otherwise.
    """
    cdef Chooser chooser = Chooser.replay(choices)
    cdef _Run one = _Run(name, chooser, mutant, delayed_stores)
    result = one.run(1, True)
    if chooser.has_diverged or (result.message and chooser.choices != choices):
        raise ValueError(f"these choices are not of scenario {name} with these options")
    return result


_OPERATIONS = ("load", "store", "rmw", "fence", "pause", "membarrier")


def trace(name: str, choices: bytes, mutant: str = "", delayed_stores: bool | int = False) -> list:
    """The steps of a recorded schedule: (CPU, operation, byte offset in the scenario's world, -1 outside it) each."""
    cdef _Run one = _Run(name, Chooser.replay(choices), mutant, delayed_stores, STEPS_MAX)
    cdef uint64_t i, word
    one.run(1, True)
    out = []
    for i in range(one.ex.steps if one.ex.steps < STEPS_MAX else STEPS_MAX):
        word = (<uint64_t *> one.ex.trace)[i]
        place = word >> 8
        out.append((int(word & 15), _OPERATIONS[word >> 4 & 15], -1 if place == 0xFFFFFF else int(place)))
    return out
