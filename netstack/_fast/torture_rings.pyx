"""Torture of what carries items between CPUs: pcq, if_snd, and mbufs freed by another CPU (paper §2.1, §5.4).

Rings start a little below 2**32 at each ``run``, so their indices wrap under load.  See ``torture.pyx`` for what a
torture is, what it counts and what it cannot show.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from netstack._fast.atomics cimport (ns_add_u32, ns_load_u32, ns_load_u64, ns_store_ptr, ns_store_u32, ns_store_u64,
                                     RELAXED, ACQREL)
from netstack._fast.ifqueue cimport ifqueue_t, ifq_init, ifq_destroy, ifq_put, ifq_get
from netstack._fast.lines cimport own_lines
from netstack._fast.lock cimport sched_yield
from netstack._fast.mbuf cimport mbuf_t, mbufpool_t, magazine_t, MbufPool, m_get, m_put, MBUF_STRIDE
from netstack._fast.pcq cimport pcq_t, pcq_put, pcq_get, pcq_len
from netstack._fast.torture cimport Torture, member_t, chance, linger, goes_on, wait_a_little, PARTY_MAX

cdef enum:
    RING_SLOTS = 64
    WINDOW = 128                 # items of one producer that may be under way
    BURST = 8
    PCQ_ITEM_LATE = 1            # in the order of MUTANTS
    PCQ_CLAIM_IN_TWO_STEPS = 2
    PCQ_HEAD_FIRST = 3

cdef struct item_t:              # plain: what the ring's order of stores must make visible
    uint64_t seq
    uint64_t lines[7]

cdef struct progress_t:
    uint64_t taken               # newest item of one producer; written by the consumer
    uint64_t lines0[15]
    uint64_t sent                # written by the producer
    uint64_t lines1[15]

cdef struct ring_t:
    pcq_t pcq
    ifqueue_t ifq
    bint is_ifq
    uint32_t finished            # producers that are done
    item_t *item                 # WINDOW of each producer
    progress_t of[PARTY_MAX]


cdef bint pcq_put_broken(member_t *me, pcq_t *q, void *item) noexcept nogil:
    """pcq_put, the claim in two steps."""
    cdef uint32_t tail = ns_load_u32(&q.tail, RELAXED), used = tail - ns_load_u32(&q.head, ACQREL)
    if used >= q.maxitems:
        return False
    linger(chance(me))
    ns_store_u32(&q.tail, tail + 1, RELAXED)
    ns_store_ptr(&q.slot[tail & q.mask], item, ACQREL)
    return True


cdef void *pcq_get_broken(member_t *me, pcq_t *q) noexcept nogil:
    """pcq_get, the index before the slot is empty."""
    cdef void *item = q.slot[q.head & q.mask]
    if item != NULL:
        ns_store_u32(&q.head, q.head + 1, RELAXED)
        linger(chance(me))
        ns_store_ptr(&q.slot[(q.head - 1) & q.mask], NULL, RELAXED)
    return item


cdef uint32_t ring_put(member_t *me, ring_t *ring, mbuf_t **item, uint32_t n) noexcept nogil:
    """How many went in."""
    cdef uint32_t done = 0
    if ring.is_ifq:
        return ifq_put(&ring.ifq, item, n)
    while done < n:
        if me.party.mutant == PCQ_CLAIM_IN_TWO_STEPS:
            if not pcq_put_broken(me, &ring.pcq, item[done]):
                break
        elif not pcq_put(&ring.pcq, item[done]):
            break
        done += 1
    return done


cdef uint32_t ring_get(member_t *me, ring_t *ring, mbuf_t **item, uint32_t n) noexcept nogil:
    cdef uint32_t done = 0
    if ring.is_ifq:
        return ifq_get(&ring.ifq, item, n)
    while done < n:
        if me.party.mutant == PCQ_HEAD_FIRST:
            item[done] = <mbuf_t *> pcq_get_broken(me, &ring.pcq)
        else:
            item[done] = <mbuf_t *> pcq_get(&ring.pcq)
        if item[done] == NULL:
            me.tally.count[3] += pcq_len(&ring.pcq) != 0     # claimed, not filled
            break
        done += 1
    return done


cdef void ring_producer(member_t *me, ring_t *ring) noexcept nogil:
    """Items of rising number; each says its own where the consumer will look."""
    cdef progress_t *mine = &ring.of[me.index]
    cdef item_t *items = &ring.item[me.index * WINDOW]
    cdef mbuf_t *burst[BURST]
    cdef uint32_t i, n, done = 0, spins = 0
    cdef uint64_t first
    while goes_on(me):
        n = 1 + (chance(me) & (BURST - 1))
        first = mine.sent + 1
        while ns_load_u64(&mine.taken, ACQREL) + WINDOW < first + n and not ns_load_u32(&me.party.stop, RELAXED):
            wait_a_little(&spins)
        if ns_load_u32(&me.party.stop, RELAXED):
            break
        for i in range(n):
            burst[i] = <mbuf_t *> &items[(first + i) % WINDOW]
            if me.party.mutant != PCQ_ITEM_LATE:
                items[(first + i) % WINDOW].seq = first + i
        done = 0
        while done < n and not ns_load_u32(&me.party.stop, RELAXED):
            done += ring_put(me, ring, &burst[done], n - done)
            if done < n:
                me.tally.count[2] += 1
                linger(chance(me))
                wait_a_little(&spins)
        if me.party.mutant == PCQ_ITEM_LATE:
            linger(chance(me))
            for i in range(n):
                ns_store_u64(&items[(first + i) % WINDOW].seq, first + i, RELAXED)
        mine.sent += done
        linger(chance(me))
    ns_add_u32(&ring.finished, 1)


cdef void ring_consumer(member_t *me, ring_t *ring) noexcept nogil:
    """Each item once, whole, in the order of its producer."""
    cdef mbuf_t *burst[BURST]
    cdef uint32_t i, n, producer, at, spins = 0
    cdef uint64_t seq
    cdef bint is_last = False
    while True:
        n = ring_get(me, ring, burst, 1 + (chance(me) & (BURST - 1)))
        for i in range(n):
            at = <uint32_t> (<item_t *> burst[i] - ring.item)
            producer = at // WINDOW
            seq = ring.item[at].seq
            me.tally.bad[0] += seq != ring.of[producer].taken + 1
            ns_store_u64(&ring.of[producer].taken, seq, ACQREL)
        me.tally.count[0] += n
        if n == 0:
            if is_last:
                return
            # once more after the last producer has left
            is_last = ns_load_u32(&ring.finished, ACQREL) == me.party.n - 1
            wait_a_little(&spins)
        linger(chance(me))


cdef void ring_member(member_t *me) noexcept nogil:
    cdef ring_t *ring = <ring_t *> me.party.state
    if me.index == me.party.n - 1:
        ring_consumer(me, ring)
    else:
        ring_producer(me, ring)


cdef class RingTorture(Torture):
    """``kind`` "pcq": all threads but one produce, one consumes; 2 threads make it SPSC.  "ifqueue": if_snd likewise.

    Near misses: the ring was found full, or a slot claimed and not filled, or the lock of if_snd was waited for.
    """

    MUTANTS = ("item_late", "claim_in_two_steps", "head_first")
    COUNTS = ("items", "near_misses", "full", "unfilled")
    VIOLATIONS = ("out_of_order", "lost")
    cdef ring_t *ring

    def __init__(self, threads: int, seed: int = 0, kind: str = "pcq", *, mutant: str = ""):
        if kind not in ("pcq", "ifqueue"):
            raise ValueError(f"no ring {kind!r}: pcq or ifqueue")
        self.ring = <ring_t *> own_lines(sizeof(ring_t))
        self.ring.is_ifq = kind == "ifqueue"
        self.ring.item = <item_t *> own_lines(threads * WINDOW * sizeof(item_t))
        self.ring.pcq.slot = <void **> calloc(RING_SLOTS, sizeof(void *))
        if self.ring.pcq.slot == NULL:
            raise MemoryError()
        self.ring.pcq.mask = RING_SLOTS - 1
        self.ring.pcq.maxitems = RING_SLOTS
        ifq_init(&self.ring.ifq, RING_SLOTS - 3)
        self.begin(ring_member, self.ring)

    def __dealloc__(self):
        if self.ring != NULL:
            ifq_destroy(&self.ring.ifq)
            free(self.ring.pcq.slot)
            free(self.ring.item)
            free(self.ring)

    def run(self, seconds: float) -> None:
        """Torture for a time, from indices below the wrap at 2**32."""
        start = 2**32 - 1 - (self.members[0].rng & 1023)
        self.ring.pcq.head = self.ring.pcq.tail = self.ring.ifq.head = self.ring.ifq.tail = start
        memset(self.ring.pcq.slot, 0, RING_SLOTS * sizeof(void *))
        self.ring.finished = 0
        Torture.run(self, seconds)

    @property
    def counts(self) -> dict:
        found = Torture.counts.__get__(self)
        found["near_misses"] = found["full"] + found["unfilled"] + self.ring.ifq.lock.contended
        return found

    @property
    def violations(self) -> dict:
        cdef uint32_t i
        found = Torture.violations.__get__(self)
        found["lost"] = sum(self.ring.of[i].sent != self.ring.of[i].taken for i in range(self.party.n))
        return found


# Mbufs that another CPU frees.

cdef enum:
    POOL_MBUFS_EACH = 256
    POOL_SPILL_UNLOCKED = 1
    POOL_LEAK = 2

cdef struct crossing_t:
    mbufpool_t *pool
    uint8_t *is_live             # by mbuf; written by who has the mbuf
    pcq_t queue[PARTY_MAX]       # towards each thread


cdef void crossing_put(member_t *me, crossing_t *state, mbuf_t *m) noexcept nogil:
    """m_put on my magazine."""
    cdef mbufpool_t *pool = state.pool
    cdef magazine_t *mag = pool.mag[me.index]
    cdef uint32_t at = <uint32_t> ((<uint8_t *> m - pool.slab) // MBUF_STRIDE), half, depot_n
    me.tally.bad[0] += state.is_live[at] != 1
    state.is_live[at] = 0
    if me.party.mutant == POOL_LEAK and chance(me) & 0xFFFF == 0:
        return
    if me.party.mutant == POOL_SPILL_UNLOCKED and mag.n == mag.cap:
        half = mag.cap >> 1
        depot_n = pool.depot_n
        if depot_n + half <= pool.nmbufs:
            memcpy(&pool.depot[depot_n], &mag.obj[0], half * sizeof(void *))
            linger(chance(me))
            pool.depot_n = depot_n + half
        mag.n -= half
        memmove(&mag.obj[0], &mag.obj[half], mag.n * sizeof(void *))
    m_put(pool, mag, m)


cdef void crossing_member(member_t *me) noexcept nogil:
    """Take mbufs, send them to another thread, give back what others sent."""
    cdef crossing_t *state = <crossing_t *> me.party.state
    cdef mbufpool_t *pool = state.pool
    cdef mbuf_t *m
    cdef uint32_t _i, n, to, at
    cdef uint64_t lot
    while goes_on(me):
        lot = chance(me)
        n = 1 + (<uint32_t> (lot >> 8) & 31)
        to = <uint32_t> (lot >> 32) % me.party.n
        for _i in range(n):
            m = m_get(pool, pool.mag[me.index])
            if m == NULL:
                me.tally.count[2] += 1
                break
            at = <uint32_t> ((<uint8_t *> m - pool.slab) // MBUF_STRIDE)
            me.tally.bad[0] += state.is_live[at] != 0
            state.is_live[at] = 1
            m.m_aux = me.index ^ at
            m.m_cpu = <unsigned short> me.index
            if not pcq_put(&state.queue[to], m):
                crossing_put(me, state, m)
                sched_yield()
                break
        linger(lot)
        n = 1 + (<uint32_t> (lot >> 16) & 63)
        for _i in range(n):
            m = <mbuf_t *> pcq_get(&state.queue[me.index])
            if m == NULL:
                break
            at = <uint32_t> ((<uint8_t *> m - pool.slab) // MBUF_STRIDE)
            me.tally.bad[1] += m.m_aux != (m.m_cpu ^ at)
            me.tally.count[1] += m.m_cpu != me.index
            crossing_put(me, state, m)
            me.tally.count[0] += 1


cdef class PoolTorture(Torture):
    """Mbufs taken on one CPU and freed on another, through a depot that is nearly empty.

    Near misses: an mbuf went into the magazine of another CPU than it came from.  At the end of each ``run`` every mbuf
    must be in one place.
    """

    MUTANTS = ("spill_unlocked", "leak")
    COUNTS = ("frees", "near_misses", "empty", "depot_trips", "depot_waits")
    VIOLATIONS = ("two_owners", "overwritten", "not_conserved")
    cdef crossing_t *state
    cdef readonly MbufPool pool
    cdef uint64_t _astray

    def __init__(self, threads: int, seed: int = 0, *, mutant: str = ""):
        cdef uint32_t i
        self.pool = MbufPool(threads * POOL_MBUFS_EACH, threads)
        self.state = <crossing_t *> own_lines(sizeof(crossing_t))
        self.state.pool = &self.pool.pool
        self.state.is_live = <uint8_t *> calloc(self.pool.pool.nmbufs, 1)
        if self.state.is_live == NULL:
            raise MemoryError()
        for i in range(threads):
            self.state.queue[i].slot = <void **> calloc(RING_SLOTS, sizeof(void *))
            if self.state.queue[i].slot == NULL:
                raise MemoryError()
            self.state.queue[i].mask = RING_SLOTS - 1
            self.state.queue[i].maxitems = RING_SLOTS
        self.begin(crossing_member, self.state)

    def __dealloc__(self):
        cdef uint32_t i
        if self.state != NULL:
            for i in range(PARTY_MAX):
                free(self.state.queue[i].slot)
            free(self.state.is_live)
            free(self.state)

    def run(self, seconds: float) -> None:
        """Torture for a time, then count the mbufs."""
        cdef uint32_t i
        cdef mbuf_t *m
        cdef mbufpool_t *pool = &self.pool.pool
        Torture.run(self, seconds)
        for i in range(self.party.n):
            m = <mbuf_t *> pcq_get(&self.state.queue[i])
            while m != NULL:
                crossing_put(&self.members[i], self.state, m)
                m = <mbuf_t *> pcq_get(&self.state.queue[i])
        self._astray += self._count_astray(pool)

    cdef uint64_t _count_astray(self, mbufpool_t *pool):
        """Mbufs that lie in no place, or in two."""
        cdef uint32_t i, k
        places = [0] * pool.nmbufs
        for i in range(pool.depot_n):
            places[(<uint8_t *> pool.depot[i] - pool.slab) // MBUF_STRIDE] += 1
        for k in range(pool.nmag):
            for i in range(pool.mag[k].n):
                places[(<uint8_t *> pool.mag[k].obj[i] - pool.slab) // MBUF_STRIDE] += 1
        return sum(place != 1 for place in places)

    @property
    def counts(self) -> dict:
        found = Torture.counts.__get__(self)
        found["depot_trips"] = self.pool.pool.lock.acquired
        found["depot_waits"] = self.pool.pool.lock.contended
        return found

    @property
    def violations(self) -> dict:
        found = Torture.violations.__get__(self)
        found["not_conserved"] = self._astray
        return found
