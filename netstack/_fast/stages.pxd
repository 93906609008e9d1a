"""Receive and Ethernet stages over a packet vector: rx, parse, local input, punt (paper §2.1, §3.2.1, §3.3).

Each stage consumes frames by moving, dropping or handing them on, keeps the order of the rest, and adds its
counters once
per vector.  Callers: the thin wrappers of ``kernels.pyx`` and the compiled chain of ``chain.pyx``.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from netstack._fast.atomics cimport (ns_own_u32, ns_load_ptr, ns_load_u64, RELAXED, ns_count_u32, ns_count_u64,
                                     ns_load_u32, ns_store_u32, ACQREL)
from netstack._fast.cpu cimport (cpu_t, rxq_t, txq_t, softint_schedule, stat_drop, PUNT_SLOTS, PUNT_LOCAL, FWDQ_SLOTS)
from netstack._fast.defs cimport VEC_MAX, ETHER_HDR_LEN, MAC_MASK
from netstack._fast.dispositions cimport Drop
from netstack._fast.dring cimport desc_t, DESC_DD
from netstack._fast.etherhdr cimport (ether_dst, ether_src_type, ETHERTYPE_VLAN_LE, ETHERTYPE_QINQ_LE)
from netstack._fast.ifnet cimport ifnet_t, ifstat_t, IFF_LIVE, IFF_LISTEN
from netstack._fast.kassert cimport KASSERT, ns_likely, ns_unlikely, ns_prefetch
from netstack._fast.lock cimport spin_enter, spin_exit
from netstack._fast.mbuf cimport (mbuf_t, pktvec_t, m_reserve, m_goes_live, m_of_data, m_freem, M_BCAST, M_MCAST)
from netstack._fast.mutants cimport ns_mutant, MUT_RING_TAIL_EARLY
from netstack._fast.wire cimport hwrx_run

cdef enum:
    BROADCAST_KEY = 0xFFFFFFFFFFFF


cdef inline uint32_t rx_ring(cpu_t *cpu, rxq_t *rxq, pktvec_t *vec, uint32_t limit) noexcept nogil:
    """Take done descriptors, give each slot a fresh mbuf, ring the doorbell.  The RX mutex is held.

    Without a fresh mbuf the frame is dropped and its buffer stays in the slot: the ring never shrinks.
    """
    cdef uint32_t next = ns_own_u32(&rxq.ring.next), mask = rxq.ring.mask, n = 0, taken = 0, have, dropped = 0
    cdef uint32_t room = VEC_MAX if limit > VEC_MAX else limit
    cdef uint64_t nbytes = 0
    cdef desc_t *d
    cdef mbuf_t *m
    cdef mbuf_t **fresh
    cdef ifstat_t *stat
    have = m_reserve(cpu.pool, cpu.mag, room)
    fresh = &cpu.mag.obj[cpu.mag.n]
    while n < room:
        d = &rxq.ring.desc[next & mask]
        if d.addr == NULL or not ns_load_u32(&d.status, ACQREL) & DESC_DD:
            break
        nbytes += d.nbytes
        if ns_unlikely(have == 0):
            dropped += 1
        else:
            have -= 1
            if ns_mutant(MUT_RING_TAIL_EARLY):
                ns_store_u32(&rxq.ring.tail, rxq.ring.tail + 1, ACQREL)
                ns_load_u32(&rxq.ring.tail, ACQREL)      # the device may run here
            m = m_of_data(d.addr)
            m.m_next = NULL
            m.m_len = d.nbytes
            m.m_pktlen = d.nbytes
            m.m_flags = 0
            m.m_vnet.flags = 0
            m.m_vnet.gso_type = 0
            m.m_rcvif = vec.rcvif
            vec.m[n] = m
            fresh -= 1
            m_goes_live(fresh[0])
            d.addr = fresh[0].m_data
            n += 1
        d.status = 0
        next += 1
        taken += 1
        if dropped == room:
            break
    if taken:
        cpu.mag.n -= n
        ns_store_u32(&rxq.ring.next, next, RELAXED)
        if not ns_mutant(MUT_RING_TAIL_EARLY):
            ns_store_u32(&rxq.ring.tail, ns_own_u32(&rxq.ring.tail) + taken, ACQREL)
        stat = &rxq.ifp.stat[cpu.index]
        ns_count_u64(&stat.ipackets, taken)
        ns_count_u64(&stat.ibytes, nbytes)
        if dropped:
            ns_count_u32(&cpu.mag.failures, dropped)
            ns_count_u64(&stat.drops[<uint32_t> Drop.NO_MBUF], dropped)
        if ns_load_ptr(&rxq.hw.cable.first, RELAXED) != NULL:
            # frames wait on the cable for the descriptors just given
            hwrx_run(rxq.hw, cpu.now_ns)
    return n


cdef inline uint32_t rx_receive(cpu_t *cpu, rxq_t *rxq, pktvec_t *vec, uint32_t limit) noexcept nogil:
    """Receive up to limit frames into an empty vector under the RX mutex; 0 when the queue is stopping."""
    cdef uint32_t n = 0, i
    cdef uint64_t nbytes = 0
    cdef ifstat_t *stat
    vec.n = 0
    vec.rcvif = <unsigned short> rxq.ifp.index
    vec.queue = <unsigned short> rxq.index
    spin_enter(&rxq.lock)
    if rxq.stopping == 0:
        if rxq.rx == NULL:
            n = rx_ring(cpu, rxq, vec, limit)
        else:
            n = rxq.rx(cpu, rxq, vec, VEC_MAX if limit > VEC_MAX else limit)
            if n:
                for i in range(n):
                    nbytes += vec.m[i].m_pktlen
                    vec.m[i].m_rcvif = vec.rcvif
                stat = &rxq.ifp.stat[cpu.index]
                ns_count_u64(&stat.ipackets, n)
                ns_count_u64(&stat.ibytes, nbytes)
        ns_count_u64(&rxq.activations, 1)
        ns_count_u64(&rxq.frames, n)
    spin_exit(&rxq.lock)
    vec.n = n
    if n:
        ns_count_u64(&rxq.ifp.stat[cpu.index].rx_vectors, 1)
    return n


cdef inline void vec_drop(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec, uint32_t reason) noexcept nogil:
    """Drop the whole vector for one reason."""
    cdef uint32_t i
    for i in range(vec.n):
        m_freem(cpu.pool, cpu.mag, vec.m[i])
    stat_drop(cpu, ifp, reason, vec.n)
    vec.n = 0


cdef inline uint32_t ether_parse(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec) noexcept nogil:
    """Fill dst and src keys; drop runts, giants, and everything while the interface is down; how many are left."""
    cdef uint32_t i, n = 0, runts = 0, giants = 0, mcasts = 0, maxlen = ns_load_u32(&ifp.maxlen, RELAXED)
    cdef uint64_t w, dst, nbytes = 0
    cdef mbuf_t *m
    if ns_unlikely(ns_load_u32(&ifp.flags, RELAXED) & IFF_LIVE != IFF_LIVE):
        vec_drop(cpu, ifp, vec, <uint32_t> Drop.IF_DOWN)
        return 0
    for i in range(vec.n):
        m = vec.m[i]
        if ns_unlikely(m.m_len < ETHER_HDR_LEN):
            m_freem(cpu.pool, cpu.mag, m)
            runts += 1
            continue
        w = ether_src_type(m.m_data)
        if ns_unlikely(m.m_pktlen > maxlen) and m.m_vnet.gso_type == 0 and not (
                m.m_pktlen <= maxlen + 4 and (w >> 48 == ETHERTYPE_VLAN_LE or w >> 48 == ETHERTYPE_QINQ_LE)):
            m_freem(cpu.pool, cpu.mag, m)
            giants += 1
            continue
        dst = ether_dst(m.m_data)
        nbytes += m.m_pktlen
        if dst & 1:
            m.m_flags |= M_BCAST if dst == BROADCAST_KEY else M_MCAST
            mcasts += 1
        vec.m[n] = m
        vec.dst[n] = dst
        vec.src[n] = w & MAC_MASK
        n += 1
    vec.n = n
    vec.nbytes = nbytes
    if runts:
        stat_drop(cpu, ifp, <uint32_t> Drop.RUNT, runts)
    if giants:
        stat_drop(cpu, ifp, <uint32_t> Drop.GIANT, giants)
    if mcasts:
        ns_count_u64(&ifp.stat[cpu.index].imcasts, mcasts)
    return n


cdef inline bint punt(cpu_t *cpu, ifnet_t *ifp, mbuf_t *m, uint32_t kind, uint32_t rcvif) noexcept nogil:
    """Leave a frame to Python, in order; a full ring drops it by name, on the interface it came from."""
    if cpu.punt_tail - cpu.punt_head >= PUNT_SLOTS:
        m_freem(cpu.pool, cpu.mag, m)
        stat_drop(cpu, ifp, <uint32_t> Drop.PUNT_FULL, 1)
        return False
    m.m_aux = kind
    m.m_rcvif = <unsigned short> rcvif
    cpu.punt[cpu.punt_tail & (PUNT_SLOTS - 1)] = m
    cpu.punt_tail += 1
    if cpu.punt_softint:
        softint_schedule(cpu, cpu.punt_softint)
    return True


cdef inline void punt_vec(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec, uint32_t kind) noexcept nogil:
    """Leave the whole vector to Python."""
    cdef uint32_t i
    for i in range(vec.n):
        punt(cpu, ifp, vec.m[i], kind, ifp.index)
    vec.n = 0


cdef inline void ether_input_one(cpu_t *cpu, ifnet_t *ifp, ifnet_t *owner, mbuf_t *m) noexcept nogil:
    """A frame for the local stack of owner: to its listener, or dropped because there is none."""
    if ns_load_u32(&owner.flags, RELAXED) & IFF_LISTEN:
        punt(cpu, ifp, m, PUNT_LOCAL, owner.index)
    else:
        m_freem(cpu.pool, cpu.mag, m)
        stat_drop(cpu, ifp, <uint32_t> Drop.NO_PROTO, 1)


cdef inline void ether_local(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec) noexcept nogil:
    """Local input of an interface that is in no bridge (or whose bridge is down); consumes the vector."""
    cdef uint32_t i, foreign = 0
    for i in range(vec.n):
        if vec.dst[i] & 1 or vec.dst[i] == ns_load_u64(&ifp.mac, RELAXED):
            ether_input_one(cpu, ifp, ifp, vec.m[i])
        else:
            m_freem(cpu.pool, cpu.mag, vec.m[i])
            foreign += 1
    if foreign:
        stat_drop(cpu, ifp, <uint32_t> Drop.NOT_FOR_US, foreign)
    vec.n = 0


cdef inline uint32_t fwdq_put(cpu_t *cpu, ifnet_t *ifp, pktvec_t *vec) noexcept nogil:
    """Queue frames for the bridge softint of the classic frame; consumes the vector; how many were queued."""
    cdef uint32_t i, done = 0
    for i in range(vec.n):
        if cpu.fwdq_tail - cpu.fwdq_head >= FWDQ_SLOTS:
            m_freem(cpu.pool, cpu.mag, vec.m[i])
        else:
            cpu.fwdq[cpu.fwdq_tail & (FWDQ_SLOTS - 1)] = vec.m[i]
            cpu.fwdq_tail += 1
            done += 1
    if done < vec.n:
        stat_drop(cpu, ifp, <uint32_t> Drop.FWDQ_FULL, vec.n - done)
    vec.n = 0
    if done and cpu.fwdq_softint:
        softint_schedule(cpu, cpu.fwdq_softint)
    return done


cdef inline uint32_t fwdq_get(cpu_t *cpu, pktvec_t *vec) noexcept nogil:
    """Take the oldest run of queued frames of one interface into an empty vector, keys filled; how many."""
    cdef mbuf_t *m
    vec.n = 0
    while cpu.fwdq_head != cpu.fwdq_tail and vec.n < VEC_MAX:
        m = cpu.fwdq[cpu.fwdq_head & (FWDQ_SLOTS - 1)]
        if vec.n == 0:
            vec.rcvif = m.m_rcvif
            vec.nbytes = 0
        elif m.m_rcvif != vec.rcvif:
            break
        vec.m[vec.n] = m
        vec.dst[vec.n] = ether_dst(m.m_data)
        vec.src[vec.n] = ether_src_type(m.m_data) & MAC_MASK
        vec.nbytes += m.m_pktlen
        vec.n += 1
        cpu.fwdq_head += 1
    return vec.n
