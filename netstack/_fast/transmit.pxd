"""if_transmit: CPU to queue, if_snd, ring, doorbell, reclaim (paper §5.4).

One try of the TX mutex per burst.  Who gets it drains if_snd into the ring; who does not leaves the burst in
if_snd, and
the holder looks again after it has let go: nothing is left behind (the fence below makes the two looks meet).
"""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.atomics cimport (ns_own_u32, ns_load_ptr, ns_read_u8, RELAXED, ns_count_u64, ns_add_u64,
                                     ns_load_u32, ns_store_u32, ns_fence, ACQREL)
from netstack._fast.cpu cimport cpu_t, txq_t, stat_drop
from netstack._fast.dispositions cimport Drop
from netstack._fast.dring cimport desc_t, DESC_DD
from netstack._fast.ifnet cimport ifnet_t, ifstat_t, IFF_LIVE
from netstack._fast.ifqueue cimport ifq_put, ifq_get, ifq_len
from netstack._fast.kassert cimport ns_likely, ns_unlikely
from netstack._fast.lock cimport spin_try, spin_enter, spin_exit
from netstack._fast.mbuf cimport mbuf_t, m_of_data, m_room, m_goes_free, m_freem, M_BCAST, M_MCAST
from netstack._fast.mutants cimport ns_mutant, MUT_TX_NO_RECHECK, MUT_TX_RECHECK_NO_FENCE, MUT_TX_COMPLETE_NO_START
from netstack._fast.wire cimport hwtx_run


cdef inline uint32_t tx_reclaim(cpu_t *cpu, txq_t *q) noexcept nogil:
    """Give mbufs of sent descriptors back and count them as output; how many.  The TX mutex is held."""
    cdef uint32_t next = ns_own_u32(&q.ring.next), tail = ns_own_u32(&q.ring.tail), n = 0, mcasts = 0
    cdef uint64_t nbytes = 0
    cdef uint32_t room = 0, mask = q.ring.mask
    cdef desc_t *d
    cdef mbuf_t *m
    cdef mbuf_t **to = NULL
    cdef ifstat_t *stat
    while next != tail:
        d = &q.ring.desc[next & mask]
        if not ns_load_u32(&d.status, ACQREL) & DESC_DD:
            break
        if room == 0:
            cpu.mag.n = <uint32_t> (to - &cpu.mag.obj[0]) if to != NULL else cpu.mag.n
            room = m_room(cpu.pool, cpu.mag)
            to = &cpu.mag.obj[cpu.mag.n]
        m = m_of_data(d.addr)
        nbytes += d.nbytes
        mcasts += m.m_flags & (M_BCAST | M_MCAST) != 0
        m_goes_free(m)
        to[0] = m
        to += 1
        room -= 1
        d.status = 0
        next += 1
        n += 1
    if n:
        cpu.mag.n = <uint32_t> (to - &cpu.mag.obj[0])
        ns_store_u32(&q.ring.next, next, RELAXED)
        ns_count_u64(&q.sent, n)
        stat = &q.ifp.stat[cpu.index]
        ns_count_u64(&stat.opackets, n)
        ns_count_u64(&stat.obytes, nbytes)
        ns_count_u64(&stat.omcasts, mcasts)
    return n


cdef inline uint32_t tx_ring(cpu_t *cpu, txq_t *q, mbuf_t **m, uint32_t n) noexcept nogil:
    """Put up to n frames into the ring, ring the doorbell, take back what has left; how many went in.

    A frame that needs more than one buffer does not fit this device and is dropped as a giant.
    """
    cdef uint32_t tail = ns_own_u32(&q.ring.tail), mask = q.ring.mask, room, i, put = 0
    cdef desc_t *d
    if tail - ns_own_u32(&q.ring.next) + n > mask + 1:
        tx_reclaim(cpu, q)
    room = mask + 1 - (tail - ns_own_u32(&q.ring.next))
    if n > room:
        n = room
    for i in range(n):
        if ns_unlikely(m[i].m_next != NULL):
            m_freem(cpu.pool, cpu.mag, m[i])
            stat_drop(cpu, q.ifp, <uint32_t> Drop.GIANT, 1)
            continue
        d = &q.ring.desc[(tail + put) & mask]
        d.addr = m[i].m_data
        d.nbytes = m[i].m_pktlen
        put += 1
    if put:
        ns_store_u32(&q.ring.tail, tail + put, ACQREL)
        hwtx_run(q.hw, cpu.now_ns)
        tx_reclaim(cpu, q)
    return n


cdef inline void tx_drain(cpu_t *cpu, txq_t *q) noexcept nogil:
    """Move if_snd to the device as far as it takes it.  The TX mutex is held."""
    cdef mbuf_t *m[64]
    cdef uint32_t n, room
    if q.start != NULL:
        q.start(cpu, q)
        return
    while ifq_len(&q.snd):
        room = q.ring.mask + 1 - (ns_own_u32(&q.ring.tail) - ns_own_u32(&q.ring.next))
        if room == 0:
            tx_reclaim(cpu, q)
            room = q.ring.mask + 1 - (ns_own_u32(&q.ring.tail) - ns_own_u32(&q.ring.next))
            if room == 0:
                ns_store_u32(&q.is_full, 1, RELAXED)     # TX completion clears it and comes here again
                return
        n = ifq_get(&q.snd, m, room if room < 64 else 64)
        tx_ring(cpu, q, m, n)


cdef inline void tx_handover(cpu_t *cpu, txq_t *q) noexcept nogil:
    """After letting go of the TX mutex: serve those who found it held."""
    if ns_mutant(MUT_TX_NO_RECHECK):
        return
    if not ns_mutant(MUT_TX_RECHECK_NO_FENCE):
        ns_fence()                       # my release before this look; the other's put before its try
    while (ifq_len(&q.snd) and ns_load_u32(&q.is_full, RELAXED) == 0 and ns_load_u32(&q.stopping, RELAXED) == 0
           and spin_try(&q.lock)):
        tx_drain(cpu, q)
        spin_exit(&q.lock)
        ns_fence()


cdef inline uint32_t txq_transmit(cpu_t *cpu, txq_t *q, ifnet_t *ifp, mbuf_t **m, uint32_t n) noexcept nogil:
    """Enqueue a burst on one TX queue and start it; how many frames it took.  The rest is freed and counted."""
    cdef uint32_t done = 0, i
    cdef bint mine = spin_try(&q.lock)
    if ns_unlikely(ns_load_u32(&q.stopping, RELAXED)):
        if mine:
            spin_exit(&q.lock)
        for i in range(n):
            m_freem(cpu.pool, cpu.mag, m[i])
        stat_drop(cpu, ifp, <uint32_t> Drop.STOPPED, n)
        return 0
    if mine and q.start == NULL and ifq_len(&q.snd) == 0:
        done = tx_ring(cpu, q, m, n)     # the common case: if_snd is empty, straight to the ring
    if done < n:
        done += ifq_put(&q.snd, m + done, n - done)
        if not mine:
            ns_add_u64(&q.handovers, 1)
            ns_fence()
            mine = spin_try(&q.lock)
        if mine:
            tx_drain(cpu, q)
    if mine:
        spin_exit(&q.lock)
        tx_handover(cpu, q)
    if ns_unlikely(done < n):
        for i in range(done, n):
            m_freem(cpu.pool, cpu.mag, m[i])
        stat_drop(cpu, ifp, <uint32_t> Drop.SND_FULL, n - done)
    return done


cdef inline uint32_t if_transmit(cpu_t *cpu, ifnet_t *ifp, mbuf_t **m, uint32_t n) noexcept nogil:
    """Send a burst out of an interface; consumes all of it.  Drops are counted on the output interface."""
    cdef uint32_t i
    if ns_unlikely(ns_load_u32(&ifp.flags, RELAXED) & IFF_LIVE != IFF_LIVE):
        for i in range(n):
            m_freem(cpu.pool, cpu.mag, m[i])
        stat_drop(cpu, ifp, <uint32_t> Drop.IF_DOWN, n)
        return 0
    if ns_unlikely(ns_load_u32(&ifp.ntxq, ACQREL) == 0):
        for i in range(n):
            m_freem(cpu.pool, cpu.mag, m[i])
        stat_drop(cpu, ifp, <uint32_t> Drop.TX_ERROR, n)
        return 0
    ns_count_u64(&ifp.stat[cpu.index].tx_bursts, 1)
    return txq_transmit(cpu, <txq_t *> ns_load_ptr(&ifp.txq[ns_read_u8(&ifp.txq_of_cpu[cpu.index])], RELAXED), ifp,
                        m, n)


cdef inline uint32_t tx_complete(cpu_t *cpu, txq_t *q) noexcept nogil:
    """TX completion: take back sent mbufs and start again what had to wait; how many were taken back."""
    cdef uint32_t n
    spin_enter(&q.lock)
    n = tx_reclaim(cpu, q) if q.start == NULL else 0
    ns_store_u32(&q.is_full, 0, RELAXED)
    if ns_mutant(MUT_TX_COMPLETE_NO_START):
        spin_exit(&q.lock)
        return n
    if q.stopping == 0:
        tx_drain(cpu, q)
    spin_exit(&q.lock)
    tx_handover(cpu, q)
    return n
