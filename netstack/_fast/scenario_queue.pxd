"""Explorer scenarios of queues: if_snd, the TX mutex handed over, a full TX ring, pcq, mbuf depot, receive ring.

Each is a world, a setup, what each CPU does, and what must hold in the end; see ``explore.pyx`` for the table.
Frames that nobody looks into are numbers: producer << 8 | count, so that loss, doubling and disorder show.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack._fast.atomics cimport (ns_load_u32, ns_load_u64, ns_store_u32, ns_store_u64, ns_add_u32, ns_pause,
                                     RELAXED, ACQREL)
from netstack._fast.cable cimport hwrx_step, HEADER_BYTES
from netstack._fast.cpu cimport cpu_t, rxq_t, txq_t
from netstack._fast.dring cimport desc_t
from netstack._fast.explorer cimport must
from netstack._fast.ifnet cimport ifnet_t, ifstat_t
from netstack._fast.ifqueue cimport ifqueue_t, ifq_put, ifq_get, ifq_len
from netstack._fast.mbuf cimport (mbuf_t, mbufpool_t, magazine_t, pktvec_t, m_get, m_put, m_poison, M_FREE,
                                  M_LIVE)
from netstack._fast.pcq cimport pcq_t, pcq_put, pcq_get
from netstack._fast.stages cimport rx_ring
from netstack._fast.transmit cimport txq_transmit, tx_complete
from netstack._fast.wire cimport fifo_t, gen_t, hwrx_t

cdef inline mbuf_t *number(int producer, uint32_t count) noexcept nogil:
    return <mbuf_t *> <size_t> (<uint32_t> (producer + 1) << 8 | count)

cdef struct taken_t:             # what came out, and the last of each producer
    uint32_t n
    uint32_t last[3]

cdef inline void take(taken_t *taken, mbuf_t *m) noexcept nogil:
    """Each producer's frames come in the order they went in, each once."""
    cdef uint32_t word = <uint32_t> <size_t> m, producer = (word >> 8) - 1, count = word & 255
    must(m != NULL and producer < 3, b"queue: something came out that nobody put in")
    must(count == taken.last[producer] + 1, b"queue: a frame is lost, doubled, or out of order")
    taken.last[producer] = count
    taken.n += 1

# if_snd: two producers of two frames each, one of them a burst; one consumer.

cdef struct ifq_world_t:
    ifqueue_t q
    mbuf_t *ring[4]
    taken_t taken
    uint32_t refused

cdef inline void ifq_setup(void *world) noexcept nogil:
    cdef ifq_world_t *w = <ifq_world_t *> world
    memset(world, 0, sizeof(ifq_world_t))
    w.q.ring = &w.ring[0]
    w.q.mask = 3
    w.q.maxlen = 3
    w.q.head = w.q.tail = <uint32_t> -2          # the indices come round

cdef inline void ifq_body(void *world, int cpu) noexcept nogil:
    cdef ifq_world_t *w = <ifq_world_t *> world
    cdef mbuf_t *m[4]
    cdef uint32_t n, i
    if cpu != 0:
        m[0] = number(cpu, 1)
        m[1] = number(cpu, 2)
        if cpu == 1:
            ns_add_u32(&w.refused, 2 - ifq_put(&w.q, m, 2))
        elif ifq_put(&w.q, m, 1):
            ns_add_u32(&w.refused, 1 - ifq_put(&w.q, m + 1, 1))
        else:
            ns_add_u32(&w.refused, 2)
        return
    while w.taken.n + ns_load_u32(&w.refused, ACQREL) < 4:
        n = ifq_get(&w.q, m, 2)
        for i in range(n):
            take(&w.taken, m[i])
        if n == 0:
            ns_pause()

cdef inline void ifq_finish(void *world) noexcept nogil:
    cdef ifq_world_t *w = <ifq_world_t *> world
    must(ifq_len(&w.q) == 0, b"if_snd: a frame is left")

# if_transmit: two CPUs, one TX queue; who does not get the TX mutex leaves its burst to the holder.

cdef struct tx_world_t:
    txq_t q
    mbuf_t *ring[8]
    taken_t taken
    uint64_t owner               # inside the device
    uint32_t room                # frames the device takes now
    uint32_t in_device
    uint32_t completed
    uint32_t frames
    ifnet_t ifp
    cpu_t cpu[3]

cdef inline uint32_t tx_start(cpu_t *cpu, txq_t *q) noexcept nogil:
    """A device: takes what it has room for.  The TX mutex is held."""
    cdef tx_world_t *w = <tx_world_t *> q.private
    cdef mbuf_t *m[4]
    cdef uint32_t n, i, done = 0, room
    must(ns_load_u64(&w.owner, RELAXED) == 0, b"if_transmit: two CPUs are at the ring")
    ns_store_u64(&w.owner, cpu.index + 1, RELAXED)
    while ifq_len(&q.snd):
        room = ns_load_u32(&w.room, ACQREL)
        if room == 0:
            ns_store_u32(&q.is_full, 1, RELAXED)
            break
        n = ifq_get(&q.snd, m, room if room < 4 else 4)
        for i in range(n):
            take(&w.taken, m[i])
        ns_add_u32(&w.room, <uint32_t> -<int> n)
        ns_add_u32(&w.in_device, n)
        done += n
    ns_store_u64(&w.owner, 0, RELAXED)
    return done

cdef inline void tx_setup(void *world) noexcept nogil:
    cdef tx_world_t *w = <tx_world_t *> world
    cdef uint32_t i
    memset(world, 0, sizeof(tx_world_t) - 3 * sizeof(cpu_t) - sizeof(ifnet_t))
    w.q.start = tx_start
    w.q.private = w
    w.q.ifp = &w.ifp
    w.q.snd.ring = &w.ring[0]
    w.q.snd.mask = 7
    w.q.snd.maxlen = 8
    w.room = 100
    w.frames = 4
    for i in range(3):
        w.cpu[i].index = i

cdef inline void tx_send(tx_world_t *w, int cpu) noexcept nogil:
    cdef mbuf_t *m[2]
    m[0] = number(cpu, 1)
    m[1] = number(cpu, 2)
    txq_transmit(&w.cpu[cpu], &w.q, &w.ifp, m, 1)
    txq_transmit(&w.cpu[cpu], &w.q, &w.ifp, m + 1, 1)

cdef inline void tx_body(void *world, int cpu) noexcept nogil:
    tx_send(<tx_world_t *> world, cpu)

cdef inline void tx_finish(void *world) noexcept nogil:
    cdef tx_world_t *w = <tx_world_t *> world
    must(w.taken.n == w.frames and ifq_len(&w.q.snd) == 0, b"if_transmit: a frame is left in if_snd for nobody")

# The same with a device that takes one frame at a time; CPU 2 is its completion interrupt.

cdef inline void tx_full_setup(void *world) noexcept nogil:
    tx_setup(world)
    (<tx_world_t *> world).room = 1

cdef inline void tx_full_body(void *world, int cpu) noexcept nogil:
    cdef tx_world_t *w = <tx_world_t *> world
    if cpu < 2:
        tx_send(w, cpu)
        return
    while w.completed < w.frames:                # a frame that nobody starts is a deadlock
        if ns_load_u32(&w.in_device, ACQREL) == 0:
            ns_pause()
            continue
        ns_add_u32(&w.in_device, <uint32_t> -1)
        ns_add_u32(&w.room, 1)
        w.completed += 1
        tx_complete(&w.cpu[2], &w.q)

# pcq: two producers, one consumer, room for two.

cdef struct pcq_world_t:
    pcq_t q
    void *slot[2]
    taken_t taken
    uint32_t refused[3]

cdef inline void pcq_setup(void *world) noexcept nogil:
    cdef pcq_world_t *w = <pcq_world_t *> world
    memset(world, 0, sizeof(pcq_world_t))
    w.q.slot = &w.slot[0]
    w.q.mask = 1
    w.q.maxitems = 2
    w.q.head = w.q.tail = <uint32_t> -1

cdef inline void pcq_body(void *world, int cpu) noexcept nogil:
    cdef pcq_world_t *w = <pcq_world_t *> world
    cdef uint32_t i
    cdef void *item
    if cpu != 0:
        for i in range(1, 3):
            while not pcq_put(&w.q, number(cpu, i)):
                ns_pause()
        return
    while w.taken.n < 4:
        item = pcq_get(&w.q)
        if item != NULL:
            take(&w.taken, <mbuf_t *> item)
        else:
            ns_pause()

cdef inline void pcq_finish(void *world) noexcept nogil:
    cdef pcq_world_t *w = <pcq_world_t *> world
    must(w.q.head == w.q.tail and w.slot[0] == NULL and w.slot[1] == NULL, b"pcq: something is left")

# Mbuf pool: two CPUs with small magazines, a depot that is short; each uses what it gets alone.

cdef enum:
    DEPOT_MBUFS = 7

cdef struct depot_world_t:
    mbufpool_t pool
    mbuf_t *depot[DEPOT_MBUFS + 1]
    uint64_t user[DEPOT_MBUFS]   # 1 + CPU that uses it
    magazine_t mag[2]
    mbuf_t mbuf[DEPOT_MBUFS]

cdef inline void depot_setup(void *world) noexcept nogil:
    cdef depot_world_t *w = <depot_world_t *> world
    cdef uint32_t i
    memset(&w.pool, 0, sizeof(mbufpool_t))
    w.pool.depot = &w.depot[0]
    w.pool.depot_n = DEPOT_MBUFS
    w.pool.nmbufs = DEPOT_MBUFS
    w.pool.nmag = 2
    for i in range(2):
        w.pool.mag[i] = &w.mag[i]
        w.mag[i].n = 0
        w.mag[i].cap = 4
        w.mag[i].id = i
        w.mag[i].failures = 0
    for i in range(DEPOT_MBUFS):
        w.depot[i] = &w.mbuf[i]
        w.mbuf[i].m_state = M_FREE
        m_poison(&w.mbuf[i])
        w.user[i] = 0

cdef inline void depot_body(void *world, int cpu) noexcept nogil:
    cdef depot_world_t *w = <depot_world_t *> world
    cdef mbuf_t *m[5]
    cdef uint32_t _round, i, n, at
    for _round in range(2):
        n = 0
        while n < 5:
            m[n] = m_get(&w.pool, &w.mag[cpu])
            if m[n] == NULL:
                break
            at = <uint32_t> (m[n] - &w.mbuf[0])
            must(ns_load_u64(&w.user[at], RELAXED) == 0, b"mbuf pool: one mbuf has two users")
            ns_store_u64(&w.user[at], cpu + 1, RELAXED)
            n += 1
        for i in range(n):
            at = <uint32_t> (m[i] - &w.mbuf[0])
            must(ns_load_u64(&w.user[at], RELAXED) == <uint64_t> (cpu + 1), b"mbuf pool: one mbuf has two users")
            ns_store_u64(&w.user[at], 0, RELAXED)
            m_put(&w.pool, &w.mag[cpu], m[i])

cdef inline void depot_finish(void *world) noexcept nogil:
    cdef depot_world_t *w = <depot_world_t *> world
    cdef uint32_t i, seen = 0
    must(w.pool.depot_n + w.mag[0].n + w.mag[1].n == DEPOT_MBUFS, b"mbuf pool: mbufs are lost or made")
    for i in range(w.pool.depot_n):
        seen |= <uint32_t> 1 << (w.depot[i] - &w.mbuf[0])
    for i in range(w.mag[0].n):
        seen |= <uint32_t> 1 << (w.mag[0].obj[i] - &w.mbuf[0])
    for i in range(w.mag[1].n):
        seen |= <uint32_t> 1 << (w.mag[1].obj[i] - &w.mbuf[0])
    must(seen == (1 << DEPOT_MBUFS) - 1, b"mbuf pool: an mbuf is in two places")

# Receive ring: CPU 0 is the device, CPU 1 the driver; two slots, numbered frames.

cdef enum:
    RING_SLOTS = 2
    RING_FRAMES = 4
    RING_MBUFS = 6

cdef struct ring_world_t:
    cpu_t cpu
    rxq_t rxq
    hwrx_t hw
    gen_t gen
    fifo_t cable
    ifnet_t ifp
    ifstat_t stat[2]
    mbufpool_t pool
    desc_t desc[RING_SLOTS]
    uint8_t header[16 * HEADER_BYTES]
    mbuf_t *depot[RING_MBUFS + 1]
    uint32_t taken
    magazine_t mag
    pktvec_t vec
    mbuf_t mbuf[RING_MBUFS]

cdef inline void ring_setup(void *world) noexcept nogil:
    cdef ring_world_t *w = <ring_world_t *> world
    cdef uint32_t i
    memset(&w.rxq, 0, sizeof(rxq_t))
    memset(&w.hw, 0, sizeof(hwrx_t) + sizeof(gen_t) + sizeof(fifo_t))
    memset(&w.stat[0], 0, 2 * sizeof(ifstat_t) + sizeof(mbufpool_t))
    w.cpu.index = 1
    w.cpu.pool = &w.pool
    w.cpu.mag = &w.mag
    w.pool.depot = &w.depot[0]
    w.pool.nmbufs = RING_MBUFS
    w.pool.nmag = 1
    w.mag.cap = 8
    w.mag.n = RING_MBUFS - RING_SLOTS
    for i in range(RING_MBUFS):
        w.mbuf[i].m_state = M_FREE
        if i >= RING_SLOTS:
            m_poison(&w.mbuf[i])
            w.mag.obj[i - RING_SLOTS] = &w.mbuf[i]
    for i in range(16):
        w.header[i * HEADER_BYTES] = <uint8_t> (i + 1)
    for i in range(RING_SLOTS):
        w.mbuf[i].m_state = M_LIVE               # the device has it
        w.desc[i].addr = &w.mbuf[i].m_data[0]
        w.desc[i].status = 0
    w.ifp.stat = &w.stat[0]
    w.rxq.ifp = &w.ifp
    w.rxq.hw = &w.hw
    w.rxq.ring.desc = &w.desc[0]
    w.rxq.ring.mask = RING_SLOTS - 1
    w.rxq.ring.tail = RING_SLOTS
    w.hw.desc = &w.desc[0]
    w.hw.tail = &w.rxq.ring.tail
    w.hw.mask = RING_SLOTS - 1
    w.hw.enabled = 1
    w.hw.buffer_bytes = 2048
    w.hw.cable = &w.cable
    w.hw.gen = &w.gen
    w.gen.header = &w.header[0]
    w.gen.nheaders = 16
    w.gen.nbytes = 60
    w.gen.stop_ns = 1000
    w.taken = 0

cdef inline void ring_body(void *world, int cpu) noexcept nogil:
    cdef ring_world_t *w = <ring_world_t *> world
    cdef uint32_t n, i
    if cpu == 0:
        while w.hw.head < RING_FRAMES:
            if hwrx_step(&w.hw, 1) == 0:
                ns_pause()
        return
    while w.taken < RING_FRAMES:
        n = rx_ring(&w.cpu, &w.rxq, &w.vec, 2)
        if n == 0:
            ns_pause()
        for i in range(n):
            ns_load_u32(&w.rxq.ring.tail, RELAXED)       # the device may run here
            w.taken += 1
            must(w.vec.m[i].m_data[0] == w.taken, b"receive ring: a frame is lost, old, or out of order")
            m_put(&w.pool, &w.mag, w.vec.m[i])

cdef inline void ring_finish(void *world) noexcept nogil:
    cdef ring_world_t *w = <ring_world_t *> world
    must(w.mag.n == RING_MBUFS - RING_SLOTS, b"receive ring: an mbuf is lost")
