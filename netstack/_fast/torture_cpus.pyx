"""Torture of what CPUs do to each other: posted softints and sleep, the TX mutex handed over (paper §2.1, §5.4).

Every thread is a CPU with its magazine, softint queues and wake-up descriptor.  See ``torture.pyx`` for what a torture
is, what it counts and what it cannot show.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from netstack._fast.atomics cimport (ns_add_u64, ns_fence, ns_load_u32, ns_load_u64, ns_store_u32, ns_store_u64,
                                     ns_xchg_u32, RELAXED, ACQREL)
from netstack._fast.cpu cimport (cpu_t, txq_t, CpuBlock, SoftintTable, softint_next, softint_post, softint_schedule,
                                 remote_take, ctz64)
from netstack._fast.idle cimport look_at_fds, something_pending
from netstack._fast.ifnet cimport IfnetBlock
from netstack._fast.ifqueue cimport ifq_get, ifq_len, ifq_put
from netstack._fast.intr cimport IntrController
from netstack._fast.lines cimport own_lines
from netstack._fast.lock cimport sched_yield, spin_enter, spin_exit, spin_try
from netstack._fast.mbuf cimport MbufPool, mbuf_t, m_get, m_put
from netstack._fast.pserialize cimport PSerialize, psz_idle
from netstack._fast.queue cimport TxQueue
from netstack._fast.torture cimport Torture, member_t, chance, linger, goes_on, meet, part, PARTY_MAX
from netstack._fast.transmit cimport tx_drain, txq_transmit

cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int initval, int flags) noexcept
    enum:
        EFD_NONBLOCK
        EFD_CLOEXEC

cdef extern from "unistd.h" nogil:
    int close(int fd) noexcept


cdef list make_cpus(uint32_t n, MbufPool pool, SoftintTable softints):
    """CPUs that are only what the kernels see of them."""
    controller = IntrController(n)
    psz = PSerialize(n)
    return [CpuBlock(i, controller, pool, softints, psz) for i in range(n)]


# Softints posted to other CPUs.

cdef enum:
    HANDLES = 4                  # softints, on two levels
    TOKENS_EACH = 2
    SLEEP_NS = 20000000
    SOFT_TAKE_IN_TWO_STEPS = 1   # in the order of MUTANTS
    SOFT_CLEAR_LATE = 2
    SOFT_LOOK_FIRST = 3

cdef struct mailbox_t:           # of one softint on one CPU
    uint64_t asked               # tokens that came; any CPU
    uint64_t posted              # posts that are complete; any CPU
    uint64_t lines0[14]
    uint64_t served              # tokens passed on; this CPU
    uint64_t lines1[15]

cdef struct soft_t:
    cpu_t *cpu[PARTY_MAX]
    mailbox_t box[PARTY_MAX][HANDLES]


cdef inline void soft_send(member_t *me, soft_t *state, uint32_t to, uint32_t which) noexcept nogil:
    """Leave a token in a mailbox, then ask for the softint, as its sender does."""
    cdef mailbox_t *box = &state.box[to][which]
    ns_add_u64(&box.asked, 1)
    if to == me.index:
        softint_schedule(state.cpu[to], which + 1)
    else:
        softint_post(state.cpu[to], which + 1)
    ns_add_u64(&box.posted, 1)


cdef inline void soft_handler(member_t *me, soft_t *state, uint32_t which) noexcept nogil:
    """Pass on the tokens that are there."""
    cdef mailbox_t *box = &state.box[me.index][which]
    cdef uint64_t n = ns_load_u64(&box.asked, ACQREL) - box.served, lot
    box.served += n
    me.tally.count[2] += n == 0
    while n:
        lot = chance(me)
        soft_send(me, state, <uint32_t> (lot >> 32) % me.party.n, <uint32_t> lot & (HANDLES - 1))
        n -= 1
    linger(chance(me))


cdef inline void soft_remote_take(member_t *me, cpu_t *cpu) noexcept nogil:
    cdef uint64_t bits
    if me.party.mutant != SOFT_TAKE_IN_TWO_STEPS:
        remote_take(cpu)
        return
    bits = ns_load_u64(&cpu.lapic.remote_soft[0], ACQREL)
    linger(chance(me))
    ns_store_u64(&cpu.lapic.remote_soft[0], 0, RELAXED)
    while bits:
        softint_schedule(cpu, <uint32_t> ctz64(bits))
        bits &= bits - 1


cdef uint32_t soft_round(member_t *me, soft_t *state) noexcept nogil:
    """Serve what is pending; whoever has finished a post before must have been served after."""
    cdef cpu_t *cpu = state.cpu[me.index]
    cdef uint64_t posted[HANDLES]
    cdef uint32_t i, _i, n = 0
    cdef int level, handle
    for i in range(HANDLES):
        posted[i] = ns_load_u64(&state.box[me.index][i].posted, ACQREL)
    soft_remote_take(me, cpu)
    for level in range(3, 1, -1):
        for _i in range(HANDLES):
            handle = softint_next(cpu, level)
            if handle < 0:
                break
            n += 1
            if me.party.mutant == SOFT_CLEAR_LATE:
                cpu.soft_pending[handle] = 1
            soft_handler(me, state, handle - 1)
            if me.party.mutant == SOFT_CLEAR_LATE:
                cpu.soft_pending[handle] = 0
            me.tally.count[1] += ns_load_u64(&state.box[me.index][handle - 1].asked, RELAXED) != \
                state.box[me.index][handle - 1].served       # it came while the handler ran
    for i in range(HANDLES):
        if state.box[me.index][i].served < posted[i] and cpu.soft_pending[i + 1] == 0:
            me.tally.bad[0] += 1
            state.box[me.index][i].served = posted[i]        # count it once
    return n


cdef void soft_sleep(member_t *me, soft_t *state) noexcept nogil:
    """sleep_idle of ``idle.pxd``; afterwards: did a post come that saw us awake while we were not?"""
    cdef cpu_t *cpu = state.cpu[me.index]
    cdef uint32_t i
    cdef bint is_quiet = True
    if me.party.mutant == SOFT_LOOK_FIRST:
        is_quiet = not something_pending(cpu)
        linger(chance(me))
    psz_idle(cpu.psz, cpu.index, True)
    ns_store_u32(&cpu.lapic.sleeping, 1, ACQREL)
    ns_fence()
    if me.party.mutant != SOFT_LOOK_FIRST:
        is_quiet = not something_pending(cpu)
    if is_quiet:
        me.tally.count[3] += 1
        look_at_fds(cpu, SLEEP_NS)
        for i in range(HANDLES):
            if (ns_load_u64(&state.box[me.index][i].posted, ACQREL) > state.box[me.index][i].served
                    and ns_load_u32(&cpu.lapic.sleeping, ACQREL)):
                me.tally.bad[1] += 1     # the post is complete, nobody has woken us: this sleep had no end
                break
    else:
        me.tally.count[1] += 1           # it came between the first and the last look
    ns_store_u32(&cpu.lapic.sleeping, 0, ACQREL)
    psz_idle(cpu.psz, cpu.index, False)


cdef void soft_member(member_t *me) noexcept nogil:
    cdef soft_t *state = <soft_t *> me.party.state
    while goes_on(me):
        if soft_round(me, state) == 0:
            soft_sleep(me, state)


cdef class SoftintTorture(Torture):
    """Tokens go from CPU to CPU by posted softints; a CPU without one sleeps until it is woken.

    Near misses: a post came while the handler ran, or between the look and the sleep.
    """

    MUTANTS = ("take_in_two_steps", "clear_late", "look_first")
    COUNTS = ("handlers", "near_misses", "spurious", "sleeps")
    VIOLATIONS = ("lost_posts", "lost_wakeups", "lost_tokens")
    cdef soft_t *state
    cdef list _cpus
    cdef bint _has_tokens

    def __init__(self, threads: int, seed: int = 0, *, mutant: str = ""):
        cdef uint32_t i
        softints = SoftintTable()
        for i in range(HANDLES):
            softints.add(2 + i // 2 % 2, True, "python")
        self._cpus = make_cpus(threads, MbufPool(1024, threads), softints)
        self.state = <soft_t *> own_lines(sizeof(soft_t))
        for i in range(threads):
            self.state.cpu[i] = (<CpuBlock> self._cpus[i]).cpu
            self.state.cpu[i].lapic.eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
            if self.state.cpu[i].lapic.eventfd < 0:
                raise OSError("no descriptor left for a CPU to sleep on")
        self.begin(soft_member, self.state)

    def __dealloc__(self):
        cdef uint32_t i
        if self.state != NULL:
            for i in range(PARTY_MAX):
                if self.state.cpu[i] != NULL and self.state.cpu[i].lapic.eventfd >= 0:
                    close(self.state.cpu[i].lapic.eventfd)
                    self.state.cpu[i].lapic.eventfd = -1
            free(self.state)

    def run(self, seconds: float) -> None:
        """Torture for a time; tokens stay where they are until the next."""
        cdef uint32_t i
        if not self._has_tokens:
            self._has_tokens = True
            for i in range(self.party.n * TOKENS_EACH):
                soft_send(&self.members[i % self.party.n], self.state, i % self.party.n, i % HANDLES)
        Torture.run(self, seconds)

    @property
    def counts(self) -> dict:
        cdef uint32_t i, k
        found = Torture.counts.__get__(self)
        found["handlers"] = sum(self.state.box[i][k].served for i in range(self.party.n) for k in range(HANDLES))
        return found

    @property
    def violations(self) -> dict:
        """A token that waits in a mailbox must have its softint pending."""
        cdef uint32_t i, k
        found = Torture.violations.__get__(self)
        for i in range(self.party.n):
            for k in range(HANDLES):
                found["lost_tokens"] += (
                    self.state.box[i][k].served != self.state.box[i][k].asked
                    and self.state.cpu[i].soft_pending[k + 1] == 0
                    and not self.state.cpu[i].lapic.remote_soft[0] >> (k + 1) & 1)
        return found


# The TX mutex: who does not get it is served by who has it.

cdef enum:
    BURST = 8
    HAND_NO_HANDOVER = 1
    HAND_NO_SECOND_TRY = 2
    HAND_TRY_IN_TWO_STEPS = 3

cdef struct hand_t:
    cpu_t *cpu[PARTY_MAX]
    member_t *members
    txq_t *q
    uint32_t is_over
    uint32_t inside              # guarded by the TX mutex: a check of it
    uint64_t two_inside
    uint64_t out_of_order
    uint64_t received            # guarded by the TX mutex
    uint64_t newest[PARTY_MAX]   # of each CPU; guarded by the TX mutex
    uint64_t left_behind         # the last one to meet
    uint64_t lines[16]
    uint64_t sent[PARTY_MAX][16]     # by CPU, a line each


cdef uint32_t hand_start(cpu_t *cpu, txq_t *q) noexcept nogil:
    """The device's start function, under the TX mutex: take if_snd, check order, free."""
    cdef hand_t *state = <hand_t *> q.private
    cdef mbuf_t *m[BURST]
    cdef uint32_t i, n, done = 0
    state.two_inside += ns_xchg_u32(&state.inside, 1)
    while True:
        n = ifq_get(&q.snd, m, BURST)
        for i in range(n):
            state.out_of_order += m[i].m_aux <= state.newest[m[i].m_rcvif]
            state.newest[m[i].m_rcvif] = m[i].m_aux
            m_put(cpu.pool, cpu.mag, m[i])
        state.received += n
        done += n
        if n == 0:
            break
        linger(chance(&state.members[cpu.index]) & ~<uint64_t> 0x3C0)    # often: others shall find the mutex held
    ns_store_u32(&state.inside, 0, RELAXED)
    return done


cdef uint32_t hand_transmit(member_t *me, cpu_t *cpu, txq_t *q, mbuf_t **m, uint32_t n) noexcept nogil:
    """txq_transmit, or what a mutant makes of it."""
    cdef bint mine
    cdef uint32_t done, i
    if me.party.mutant == 0:
        return txq_transmit(cpu, q, q.ifp, m, n)
    if me.party.mutant == HAND_TRY_IN_TWO_STEPS:
        mine = ns_load_u32(&q.lock.word, RELAXED) == 0
        linger(chance(me))
        if mine:
            ns_store_u32(&q.lock.word, 1, RELAXED)
    else:
        mine = spin_try(&q.lock)
    if not mine and chance(me) & 3 == 0:
        sched_yield()                    # the holder may be done before the put
    done = ifq_put(&q.snd, m, n)
    for i in range(done, n):
        m_put(cpu.pool, cpu.mag, m[i])
    me.tally.count[1] += not mine
    if not mine and me.party.mutant != HAND_NO_SECOND_TRY:
        ns_fence()
        mine = spin_try(&q.lock)
    if mine:
        tx_drain(cpu, q)
        linger(chance(me))
        spin_exit(&q.lock)
        ns_fence()
        while me.party.mutant != HAND_NO_HANDOVER and ifq_len(&q.snd) and spin_try(&q.lock):
            tx_drain(cpu, q)
            spin_exit(&q.lock)
            ns_fence()
    return done


cdef void hand_member(member_t *me) noexcept nogil:
    """Rounds: everybody sends a few bursts; when all have, nothing may be left in if_snd."""
    cdef hand_t *state = <hand_t *> me.party.state
    cdef cpu_t *cpu = state.cpu[me.index]
    cdef mbuf_t *m[BURST]
    cdef uint32_t i, n, bursts
    cdef uint64_t lot, seq = state.newest[me.index], total
    while True:
        lot = chance(me)
        bursts = 1 + (<uint32_t> (lot >> 16) & 7)
        while bursts:
            bursts -= 1
            lot = chance(me)
            n = 0
            while n < 1 + (<uint32_t> (lot >> 20) & (BURST - 1)):
                m[n] = m_get(cpu.pool, cpu.mag)
                if m[n] == NULL:
                    break
                seq += 1
                m[n].m_aux = <uint32_t> seq
                m[n].m_rcvif = <unsigned short> me.index
                n += 1
            state.sent[me.index][0] += hand_transmit(me, cpu, state.q, m, n)
            linger(lot)
        me.tally.count[2] += 1
        if meet(me):
            total = 0
            for i in range(me.party.n):
                total += state.sent[i][0]
            if ifq_len(&state.q.snd) != 0 or total != state.received:
                state.left_behind += 1
                spin_enter(&state.q.lock)
                tx_drain(cpu, state.q)
                spin_exit(&state.q.lock)
                for i in range(me.party.n):
                    total -= state.sent[i][0]
                    state.sent[i][0] = 0
                state.received = 0
            ns_store_u32(&state.is_over, not goes_on(me), RELAXED)
            part(me)
        if ns_load_u32(&state.is_over, RELAXED):
            return


cdef class HandoverTorture(Torture):
    """All CPUs send bursts over one TX queue by ``txq_transmit``.  Near misses: bursts left to the mutex's holder."""

    MUTANTS = ("no_handover", "no_second_try", "try_in_two_steps")
    COUNTS = ("frames", "near_misses", "rounds")
    VIOLATIONS = ("left_behind", "out_of_order", "two_inside")
    cdef hand_t *state
    cdef list _cpus
    cdef TxQueue _txq

    def __init__(self, threads: int, seed: int = 0, *, mutant: str = ""):
        cdef uint32_t i
        pool = MbufPool(threads * 512, threads)
        self._cpus = make_cpus(threads, pool, SoftintTable())
        self._txq = TxQueue(IfnetBlock(1, b"\x02\0\0\0\0\1"), pool, 0, 64, 256)
        self._txq.stopping = False
        self.state = <hand_t *> own_lines(sizeof(hand_t))
        for i in range(threads):
            self.state.cpu[i] = (<CpuBlock> self._cpus[i]).cpu
        self.state.members = self.members
        self.state.q = self._txq.txq
        self.state.q.private = self.state
        self.state.q.start = hand_start
        self.begin(hand_member, self.state)

    def __dealloc__(self):
        free(self.state)

    @property
    def counts(self) -> dict:
        found = Torture.counts.__get__(self)
        found["frames"] = sum([self.state.newest[i] for i in range(self.party.n)])
        found["near_misses"] += self.state.q.handovers
        return found

    @property
    def violations(self) -> dict:
        return {"left_behind": self.state.left_behind, "out_of_order": self.state.out_of_order,
                "two_inside": self.state.two_inside}
