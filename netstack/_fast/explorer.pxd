"""Controlled schedules of compiled code: logical CPUs as fibers on one OS thread, one shared access at a time.

The hook of ``atomics.h`` runs before every access.  There the chooser says who goes on: this CPU, another one, a
delayed store that becomes visible, an interrupt handler nested on a CPU whose SPL permits.

  spinning   ``ns_pause`` waits until another CPU has changed something since the loop last looked; when nobody can
             go on any more the schedule is a deadlock and reported as such
  delayed    every CPU has a FIFO of stores that only it sees; the oldest may become visible at any step; a relaxed
             one may also pass older stores to other words; fences and read-modify-writes empty the FIFO first, a
             process-wide barrier empties all
  unseen     loads that pass loads, plain accesses (each runs together with the access before it), compilers

One ``explorer_t`` per run; the thread's current one is found by ``ns_explorer_get``, so several threads may explore.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from netstack._fast.chooser cimport chooser_t, chooser_begin, chooser_choose
from netstack._fast.atomics cimport ns_explore_set

cdef extern from "fiber.h" nogil:
    ctypedef struct ns_fiber_t:
        pass
    void ns_fiber_switch(ns_fiber_t *of, ns_fiber_t *to) noexcept
    void ns_fiber_make(ns_fiber_t *f, char *stack, size_t nbytes, void (*entry)() noexcept nogil) noexcept
    char *ns_stack_new(size_t nbytes) noexcept
    void ns_stack_free(char *stack, size_t nbytes) noexcept
    void *ns_explorer_get() noexcept
    void ns_explorer_set(void *explorer) noexcept

cdef extern from "atomics.h" nogil:
    enum:
        NS_OP_LOAD
        NS_OP_STORE
        NS_OP_RMW
        NS_OP_FENCE
        NS_OP_PAUSE
        NS_OP_MEMBARRIER

cdef enum:
    XCPU_MAX = 6                 # logical CPUs of a scenario
    KEPT_MAX = 8                 # stores a CPU may hold back
    STACK_BYTES = 65536
    STEPS_MAX = 20000            # accesses of one schedule; more is a livelock
    OPT_DRAIN = 16               # options: CPU c, c + 16 its oldest store, c + 32 an interrupt, c + 48 a younger store
    OPT_INTR = 32
    OPT_LATE = 48

cdef struct scenario_t:
    int ncpu
    int interrupts               # per CPU that has a handler; at most so many in one schedule
    uint32_t intr_cpus           # bit per CPU
    size_t world_bytes
    void (*setup)(void *world) noexcept nogil
    void (*body)(void *world, int cpu) noexcept nogil
    void (*intr)(void *world, int cpu) noexcept nogil
    void (*finish)(void *world) noexcept nogil           # states what must hold in the end

cdef struct kept_t:              # a store that its CPU alone sees
    void *addr
    uint64_t value
    uint32_t nbytes
    uint32_t order

cdef struct xcpu_t:
    ns_fiber_t fiber
    char *stack
    uint64_t own                 # changes made by this CPU
    uint64_t seen                # others' changes when its spin loop last began to look
    uint32_t has_looked          # it has read something since its last pause
    uint32_t intr_left
    uint32_t intr_due            # it was resumed to take an interrupt
    uint32_t spl                 # > 0: interrupts are masked
    uint32_t nkept
    kept_t kept[KEPT_MAX]

cdef struct explorer_t:
    chooser_t *ch
    scenario_t *scenario
    char *world
    int running                  # CPU
    uint32_t is_quiet            # setup and finish: no switch, no delay
    uint32_t depth               # stores a CPU may hold back; 0: none
    uint32_t run_mask            # CPUs that can go on
    uint32_t wait_mask           # CPUs whose spin loop waits for a change
    uint32_t intr_mask           # CPUs that may be interrupted now
    uint32_t drain_mask          # CPUs that hold stores back
    uint32_t late_mask           # CPUs with a store that may pass an older one
    uint32_t violated
    uint64_t version             # changes made visible
    uint64_t steps               # of this schedule
    uint64_t digest              # of the trace: CPU, operation, place in the world
    uint64_t all_steps
    uint64_t all_digest
    uint64_t violations
    const char *message
    int message_cpu
    uint8_t *trace               # 12 bytes a step, when somebody wants to see it
    uint64_t trace_room
    ns_fiber_t main
    xcpu_t cpu[XCPU_MAX]


cdef inline explorer_t *explorer() noexcept nogil:
    return <explorer_t *> ns_explorer_get()


cdef inline void violate(const char *message) noexcept nogil:
    """An invariant does not hold: the schedule ends here.  Does not return, except from setup and finish."""
    cdef explorer_t *ex = explorer()
    if ex.violated == 0:
        ex.violated = 1
        ex.message = message
        ex.message_cpu = ex.running
    if ex.is_quiet == 0:
        ns_fiber_switch(&ex.cpu[ex.running].fiber, &ex.main)


cdef inline void must(bint condition, const char *message) noexcept nogil:
    """State an invariant."""
    if not condition:
        violate(message)


cdef inline void changed(explorer_t *ex, int c) noexcept nogil:
    """CPU c has made a change visible: loops that wait for one look again."""
    cdef uint32_t others = ex.wait_mask & ~(<uint32_t> 1 << c)
    ex.version += 1
    ex.cpu[c].own += 1
    ex.run_mask |= others
    ex.wait_mask &= ~others


cdef inline void poke(kept_t *k) noexcept nogil:
    if k.nbytes == 8:
        (<uint64_t *> k.addr)[0] = k.value
    else:
        (<uint32_t *> k.addr)[0] = <uint32_t> k.value


cdef inline int late_of(xcpu_t *cpu) noexcept nogil:
    """The first store that may pass the ones before it, or -1: relaxed, and none of them to its word."""
    cdef uint32_t i, j
    for i in range(1, cpu.nkept):
        if cpu.kept[i].order != 0:
            continue
        for j in range(i):
            if cpu.kept[j].addr == cpu.kept[i].addr:
                break
        else:
            return <int> i
    return -1


cdef inline void let_out(explorer_t *ex, int c, uint32_t at) noexcept nogil:
    """One kept store of CPU c becomes visible."""
    cdef xcpu_t *cpu = &ex.cpu[c]
    cdef uint32_t i
    poke(&cpu.kept[at])
    cpu.nkept -= 1
    for i in range(at, cpu.nkept):
        cpu.kept[i] = cpu.kept[i + 1]
    if cpu.nkept == 0:
        ex.drain_mask &= ~(<uint32_t> 1 << c)
    if late_of(cpu) < 0:
        ex.late_mask &= ~(<uint32_t> 1 << c)
    else:
        ex.late_mask |= <uint32_t> 1 << c
    changed(ex, c)


cdef inline void let_all_out(explorer_t *ex, int c) noexcept nogil:
    while ex.cpu[c].nkept:
        let_out(ex, c, 0)


cdef inline void set_intr_mask(explorer_t *ex, int c) noexcept nogil:
    if ex.cpu[c].intr_left and ex.cpu[c].spl == 0 and (ex.run_mask | ex.wait_mask) >> c & 1:
        ex.intr_mask |= <uint32_t> 1 << c
    else:
        ex.intr_mask &= ~(<uint32_t> 1 << c)


cdef inline void spl_raise(int c) noexcept nogil:
    """Mask the interrupts of the calling CPU; nests."""
    cdef explorer_t *ex = explorer()
    ex.cpu[c].spl += 1
    set_intr_mask(ex, c)


cdef inline void spl_lower(int c) noexcept nogil:
    cdef explorer_t *ex = explorer()
    ex.cpu[c].spl -= 1
    set_intr_mask(ex, c)


cdef inline void take_interrupt(explorer_t *ex, int c) noexcept nogil:
    """Run the handler on CPU c, nested where it is, its interrupts masked."""
    cdef xcpu_t *cpu = &ex.cpu[c]
    cdef uint32_t bit = <uint32_t> 1 << c
    cpu.intr_due = 0
    cpu.spl += 1
    ex.wait_mask &= ~bit
    ex.run_mask |= bit
    set_intr_mask(ex, c)
    ex.scenario.intr(ex.world, c)
    cpu.spl -= 1
    cpu.seen = <uint64_t> -1     # an interrupted loop looks again: the handler may have done what it waits for
    set_intr_mask(ex, c)


cdef inline void schedule(explorer_t *ex, int c) noexcept nogil:
    """Let the chooser decide until it is CPU c's turn to make its access.  Never returns to a CPU that has ended."""
    cdef uint64_t mask
    cdef int option, k
    while True:
        mask = (<uint64_t> ex.run_mask | <uint64_t> ex.drain_mask << OPT_DRAIN | <uint64_t> ex.intr_mask << OPT_INTR
                | <uint64_t> ex.late_mask << OPT_LATE)
        if mask == <uint64_t> 1 << c:
            ex.ch.steps += 1
            return
        if mask == 0:
            violate(b"deadlock: every CPU that has not ended waits, and nothing can change")
        option = chooser_choose(ex.ch, mask, c if ex.run_mask >> c & 1 else -1)
        if option >= OPT_LATE:
            k = option - OPT_LATE
            let_out(ex, k, <uint32_t> late_of(&ex.cpu[k]))
            continue
        if option >= OPT_INTR:
            k = option - OPT_INTR
            ex.cpu[k].intr_left -= 1
            ex.cpu[k].intr_due = 1
        elif option >= OPT_DRAIN:
            let_out(ex, option - OPT_DRAIN, 0)
            continue
        else:
            k = option
        if k != c:
            ex.running = k
            ns_fiber_switch(&ex.cpu[c].fiber, &ex.cpu[k].fiber)
        if ex.cpu[c].intr_due == 0:
            return
        take_interrupt(ex, c)


cdef inline void note(explorer_t *ex, int c, int op, void *addr) noexcept nogil:
    """Enter a step into the digest, and into the trace if there is one."""
    cdef uint64_t place = <uint64_t> (<uintptr_t> addr - <uintptr_t> ex.world)
    cdef uint8_t *at
    if place >= ex.scenario.world_bytes:
        place = 0xFFFFFF         # a local of the CPU, or no address
    ex.digest = (ex.digest ^ (place << 8 | <uint64_t> (op << 4 | c))) * <uint64_t> 0x9E3779B97F4A7C15
    ex.digest ^= ex.digest >> 29
    if ex.steps <= ex.trace_room:
        at = &ex.trace[8 * (ex.steps - 1)]
        (<uint64_t *> at)[0] = place << 8 | <uint64_t> (op << 4 | c)


cdef inline void explorer_hook(int op, void *addr) noexcept nogil:
    """Before each access of the running CPU."""
    cdef explorer_t *ex = explorer()
    cdef xcpu_t *cpu
    cdef int c, i
    if ex == NULL or ex.is_quiet:
        return
    c = ex.running
    cpu = &ex.cpu[c]
    if op == NS_OP_PAUSE:
        if cpu.has_looked == 0:
            return               # a back-off pauses several times between two looks
        cpu.has_looked = 0
    ex.steps += 1
    if ex.steps > STEPS_MAX:
        violate(b"livelock: 20000 steps and no end")
    note(ex, c, op, addr)
    if op == NS_OP_PAUSE and ex.version - cpu.own == cpu.seen:
        ex.run_mask &= ~(<uint32_t> 1 << c)
        ex.wait_mask |= <uint32_t> 1 << c
    schedule(ex, c)
    if op == NS_OP_LOAD:
        cpu.has_looked = 1
    elif op == NS_OP_STORE:
        if ex.depth == 0:
            changed(ex, c)
    elif op == NS_OP_RMW:
        cpu.has_looked = 1
        let_all_out(ex, c)
        changed(ex, c)
    elif op == NS_OP_FENCE:
        let_all_out(ex, c)
    elif op == NS_OP_MEMBARRIER:
        for i in range(ex.scenario.ncpu):
            let_all_out(ex, i)
    elif op == NS_OP_PAUSE:
        cpu.seen = ex.version - cpu.own


cdef inline int explorer_store(void *addr, uint64_t value, int nbytes, int order) noexcept nogil:
    """Keep a store back; 0: it is done at once."""
    cdef explorer_t *ex = explorer()
    cdef xcpu_t *cpu
    cdef kept_t *k
    if ex == NULL or ex.is_quiet or ex.depth == 0:
        return 0
    cpu = &ex.cpu[ex.running]
    if cpu.nkept == ex.depth:
        let_out(ex, ex.running, 0)
    k = &cpu.kept[cpu.nkept]
    k.addr = addr
    k.value = value
    k.nbytes = nbytes
    k.order = order
    cpu.nkept += 1
    ex.drain_mask |= <uint32_t> 1 << ex.running
    if late_of(cpu) >= 0:
        ex.late_mask |= <uint32_t> 1 << ex.running
    return 1


cdef inline int explorer_load(void *addr, uint64_t *value, int nbytes) noexcept nogil:
    """Answer from the CPU's own kept stores, the youngest first; 0: read memory."""
    cdef explorer_t *ex = explorer()
    cdef xcpu_t *cpu
    cdef uint32_t i
    if ex == NULL or ex.is_quiet:
        return 0
    cpu = &ex.cpu[ex.running]
    i = cpu.nkept
    while i:
        i -= 1
        if cpu.kept[i].addr == addr:
            value[0] = cpu.kept[i].value
            return 1
    return 0


cdef inline void explorer_cpu() noexcept nogil:
    """What a fiber runs: the scenario's body as one CPU."""
    cdef explorer_t *ex = explorer()
    cdef int c = ex.running
    if ex.cpu[c].intr_due:       # interrupted before its first access
        take_interrupt(ex, c)
        schedule(ex, c)
    ex.scenario.body(ex.world, c)
    ex.run_mask &= ~(<uint32_t> 1 << c)
    set_intr_mask(ex, c)
    if ex.run_mask | ex.wait_mask:
        schedule(ex, c)
    ns_fiber_switch(&ex.cpu[c].fiber, &ex.main)


cdef inline void explorer_start(explorer_t *ex) noexcept nogil:
    """Everything of a schedule as it is before the first step."""
    cdef int c
    cdef xcpu_t *cpu
    cdef uint32_t all = (<uint32_t> 1 << ex.scenario.ncpu) - 1
    ex.running = -1
    ex.violated = 0
    ex.message = NULL
    ex.version = 0
    ex.steps = 0
    ex.digest = 0
    ex.run_mask = all
    ex.wait_mask = 0
    ex.drain_mask = 0
    ex.late_mask = 0
    ex.intr_mask = 0
    for c in range(ex.scenario.ncpu):
        cpu = &ex.cpu[c]
        cpu.own = 0
        cpu.seen = 0
        cpu.has_looked = 0
        cpu.intr_due = 0
        cpu.spl = 0
        cpu.nkept = 0
        cpu.intr_left = ex.scenario.interrupts if ex.scenario.intr_cpus >> c & 1 else 0
        set_intr_mask(ex, c)
        ns_fiber_make(&cpu.fiber, cpu.stack, STACK_BYTES, explorer_cpu)


cdef inline void explorer_schedule(explorer_t *ex) noexcept nogil:
    """Run one schedule to its end or to a violation."""
    cdef int option, c
    explorer_start(ex)
    ex.is_quiet = 1
    ex.scenario.setup(ex.world)
    ex.is_quiet = 0
    option = chooser_choose(ex.ch, <uint64_t> ex.run_mask | <uint64_t> ex.intr_mask << OPT_INTR, -1)
    if option >= OPT_INTR:
        option -= OPT_INTR
        ex.cpu[option].intr_left -= 1
        ex.cpu[option].intr_due = 1
    ex.running = option
    ns_fiber_switch(&ex.main, &ex.cpu[option].fiber)
    ex.is_quiet = 1
    if ex.violated == 0:
        for c in range(ex.scenario.ncpu):
            let_all_out(ex, c)
        ex.running = -1
        ex.scenario.finish(ex.world)
    ex.all_steps += ex.steps
    ex.all_digest = (ex.all_digest ^ ex.digest) * <uint64_t> 0x2545F4914F6CDD1D
    ex.violations += ex.violated


cdef inline uint64_t explorer_run(explorer_t *ex, uint64_t schedules, bint stop_at_first) noexcept nogil:
    """Run up to so many schedules; how many there were."""
    cdef uint64_t done = 0
    ns_explorer_set(ex)
    while done < schedules and chooser_begin(ex.ch):
        explorer_schedule(ex)
        done += 1
        if ex.ch.is_short_of_memory or (ex.violated and stop_at_first):
            break
    ns_explorer_set(NULL)
    return done
