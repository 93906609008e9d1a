"""The bridge's decision per frame and the split of a vector by outcome (paper §2.3.2, §3.2.2).

``bridge_decide_one`` is the one place where the fate of a frame is decided.  Frames are decided in order and learning
comes before each frame's own look-up, so a burst equals its frames one at a time.  When every source of a vector is
known where it is (the steady state), learning changes nothing and the look-ups may run staged over the vector.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from netstack._fast.atomics cimport ns_load_u32, ns_load_u64, RELAXED, ns_count_u64
from netstack._fast.cpu cimport cpu_t, outlist_t, stat_drop
from netstack._fast.bridge cimport (bridge_t, brmap_t, bport_t, brstat_t, OUT_UNKNOWN, OUT_GROUP, OUT_STACK, OUT_STP,
                                    OUT_DROP, OUT_LOCAL, INGRESS_FORWARD, INGRESS_LOCAL, INGRESS_LEARN)
from netstack._fast.defs cimport VEC_MAX, PORT_MAX
from netstack._fast.dispositions cimport Drop
from netstack._fast.etherhdr cimport ether_is_control, BPDU_KEY
from netstack._fast.ifnet cimport ifnet_t, ifstat_t, IFF_LISTEN
from netstack._fast.kassert cimport KASSERT, ns_likely, ns_unlikely, ns_prefetch
from netstack._fast.macchain cimport rt_learn, rt_lookup
from netstack._fast.mactable cimport (mactable_t, mac_lookup, mac_bucket1, word_of, word_port, word_age, age_of,
                                      AGE_LOCAL, BUCKET_SLOTS, LEARN_NEW, LEARN_MOVED, LEARN_FULL)
from netstack._fast.mbuf cimport mbuf_t, pktvec_t, m_dup, m_freem
from netstack._fast.stages cimport punt, ether_input_one, PUNT_LOCAL

cdef enum:
    PREFETCH_BUCKETS = 8192      # 512 KiB of buckets: half of a 1 MiB L2


cdef inline uint16_t bridge_outcome(brmap_t *map, uint32_t inport, uint64_t src_word, uint64_t w) noexcept nogil:
    """Outcome of a unicast frame, by the table's words of its source and destination: a port, or why it has none."""
    cdef bport_t *out = &map.port[word_port(w)]
    if ns_unlikely(word_age(src_word) == AGE_LOCAL) and map.port[word_port(src_word)].ifp != NULL:
        if w != 0 and word_age(w) == AGE_LOCAL and out.ifp != NULL:
            return <uint16_t> (OUT_LOCAL + out.port)
        return <uint16_t> (OUT_DROP + <uint32_t> Drop.OWN_SOURCE)
    if w == 0 or out.ifp == NULL:
        return OUT_UNKNOWN           # not in the table, or under the number of a member that left or was flushed
    if ns_unlikely(word_age(w) == AGE_LOCAL):
        return <uint16_t> (OUT_LOCAL + out.port)
    if out.port == inport:
        return <uint16_t> (OUT_DROP + <uint32_t> Drop.SAME_MEMBER)
    if ns_unlikely(out.is_protected and map.port[inport].is_protected):
        return <uint16_t> (OUT_DROP + <uint32_t> Drop.PROTECTED)
    if ns_unlikely(out.egress != 0):
        return <uint16_t> (OUT_DROP + out.egress - 1)
    return out.port


cdef inline uint16_t bridge_decide_one(cpu_t *cpu, brmap_t *map, mactable_t *t, brstat_t *stat, uint32_t inport,
                                       uint64_t src, uint64_t dst) noexcept nogil:
    """Learn the source, then say where one frame goes: a port or an OUT_* code."""
    cdef bport_t *port = &map.port[inport]
    cdef int learned
    cdef uint64_t w
    if port.ingress == INGRESS_LOCAL:
        return OUT_STACK
    if dst & 1 and ether_is_control(dst) and map.forward_control == 0:
        if port.stp and dst == BPDU_KEY:
            return OUT_STP
        return <uint16_t> (OUT_DROP + <uint32_t> Drop.CONTROL_ADDR)
    if port.learn and src & 1 == 0 and src != 0:
        learned = rt_learn(t, src, port.tag, cpu.second)
        if learned == LEARN_NEW:
            ns_count_u64(&stat.learned, 1)
        elif learned == LEARN_MOVED:
            ns_count_u64(&stat.moved, 1)
        elif learned == LEARN_FULL:
            ns_count_u64(&stat.table_full, 1)
    if dst & 1:
        return <uint16_t> (OUT_DROP + <uint32_t> Drop.STP_STATE) if port.ingress == INGRESS_LEARN else OUT_GROUP
    w = bridge_outcome(map, inport, rt_lookup(t, src), rt_lookup(t, dst))
    if port.ingress == INGRESS_LEARN and w < OUT_LOCAL:
        return <uint16_t> (OUT_DROP + <uint32_t> Drop.STP_STATE)
    return <uint16_t> w


cdef inline bint bridge_is_steady(cpu_t *cpu, brmap_t *map, mactable_t *t, uint32_t inport,
                                  pktvec_t *vec) noexcept nogil:
    """True when learning would change nothing: every source is known on this port with this second's age."""
    cdef uint64_t want = word_of(0, map.port[inport].tag, age_of(cpu.second))
    cdef uint32_t i
    if map.port[inport].ingress != INGRESS_FORWARD or map.port[inport].learn == 0 or t.chain != NULL:
        return False
    for i in range(vec.n):
        # a group source never is in the table, a group destination needs the slow look
        if mac_lookup(t, vec.src[i]) != vec.src[i] | want or vec.dst[i] & 1:
            return False
    return True


cdef inline void bridge_decide(cpu_t *cpu, brmap_t *map, mactable_t *t, brstat_t *stat, uint32_t inport,
                               pktvec_t *vec) noexcept nogil:
    """Fill vec.out for every frame, in order."""
    cdef uint32_t i
    cdef uint16_t out, differ = 0
    vec.inport = inport
    vec.map = map
    vec.one_out = False
    if t.nbuckets > PREFETCH_BUCKETS:
        for i in range(vec.n):
            ns_prefetch(&t.word[mac_bucket1(t, vec.src[i]) * BUCKET_SLOTS])
            ns_prefetch(&t.word[mac_bucket1(t, vec.dst[i]) * BUCKET_SLOTS])
    if ns_likely(bridge_is_steady(cpu, map, t, inport, vec)):
        for i in range(vec.n):
            out = bridge_outcome(map, inport, 0, mac_lookup(t, vec.dst[i]))
            vec.out[i] = out
            differ |= out ^ vec.out[0]
        vec.one_out = differ == 0 and vec.n != 0 and vec.out[0] < OUT_UNKNOWN
    else:
        for i in range(vec.n):
            vec.out[i] = bridge_decide_one(cpu, map, t, stat, inport, vec.src[i], vec.dst[i])


cdef inline void out_append(cpu_t *cpu, pktvec_t *vec, uint32_t port, mbuf_t *m) noexcept nogil:
    """Put a frame on the list of an output port; each frame adds at most one to each list."""
    cdef outlist_t *out = &cpu.out[port]
    if out.n == 0:
        cpu.port_order[vec.out_ports] = <uint8_t> port
        vec.out_ports += 1
    out.m[out.n] = m
    out.n += 1


cdef inline void out_append_all(cpu_t *cpu, pktvec_t *vec, uint32_t port) noexcept nogil:
    """Put the whole vector on the list of one output port."""
    cdef outlist_t *out = &cpu.out[port]
    memcpy(out.m, vec.m, vec.n * sizeof(void *))
    out.n = vec.n
    cpu.port_order[0] = <uint8_t> port
    vec.out_ports = 1


cdef inline void local_copy(cpu_t *cpu, ifnet_t *ifp, ifnet_t *owner, mbuf_t *m, ifstat_t *stat) noexcept nogil:
    """A copy of a group frame for one listener."""
    cdef mbuf_t *copy = m_dup(cpu.pool, cpu.mag, m)
    ns_count_u64(&stat.copies, 1)
    if copy == NULL:
        ns_count_u64(&stat.drops[<uint32_t> Drop.NO_MBUF], 1)
    else:
        punt(cpu, ifp, copy, PUNT_LOCAL, owner.index)


cdef inline void bridge_broadcast(cpu_t *cpu, brmap_t *map, ifnet_t *ifp, uint32_t inport, pktvec_t *vec, mbuf_t *m,
                                  bint group) noexcept nogil:
    """Flood one frame: a copy for each port of its list, the last of which gets the frame itself."""
    cdef bport_t *port = &map.port[inport]
    cdef uint8_t *ports = port.group if group else port.unknown
    cdef uint32_t n = port.ngroup if group else port.nunknown
    cdef uint32_t k
    cdef ifstat_t *stat = &ifp.stat[cpu.index]
    cdef mbuf_t *copy
    if group:
        for k in range(map.nports):
            if map.port[k].ifp == NULL or map.port[k].port != k:
                continue
            if ns_load_u32(&map.port[k].ifp.flags, RELAXED) & IFF_LISTEN:
                local_copy(cpu, ifp, map.port[k].ifp, m, stat)
    if n == 0:
        m_freem(cpu.pool, cpu.mag, m)
        ns_count_u64(&stat.drops[<uint32_t> Drop.NO_EGRESS], 1)
        return
    for k in range(n - 1):
        copy = m_dup(cpu.pool, cpu.mag, m)
        ns_count_u64(&stat.copies, 1)
        if copy == NULL:
            ns_count_u64(&stat.drops[<uint32_t> Drop.NO_MBUF], 1)
        else:
            out_append(cpu, vec, ports[k], copy)
    out_append(cpu, vec, ports[n - 1], m)


cdef inline void bridge_split(cpu_t *cpu, ifnet_t *ifp, brstat_t *bstat, pktvec_t *vec) noexcept nogil:
    """Hand each frame to the list of its output port, the local stack, or its drop counter; consumes the vector."""
    cdef uint32_t i, n = vec.n, inport = vec.inport
    cdef brmap_t *map = <brmap_t *> vec.map
    cdef uint16_t out
    cdef mbuf_t *m
    cdef uint64_t nbytes = 0, mcasts = 0, forwarded = 0, flooded = 0
    vec.out_ports = 0
    if vec.one_out:
        # every frame to the same port: the list is the vector as it stands
        out_append_all(cpu, vec, vec.out[0])
        ns_count_u64(&bstat.ipackets, n)
        ns_count_u64(&bstat.ibytes, vec.nbytes)
        vec.n = 0
        return
    for i in range(n):
        out = vec.out[i]
        m = vec.m[i]
        if ns_likely(out < OUT_UNKNOWN):
            nbytes += m.m_pktlen
            forwarded += 1
            out_append(cpu, vec, out, m)
        elif out <= OUT_GROUP:
            nbytes += m.m_pktlen
            forwarded += 1
            flooded += 1
            mcasts += out == OUT_GROUP
            bridge_broadcast(cpu, map, ifp, inport, vec, m, out == OUT_GROUP)
        elif out >= OUT_LOCAL:
            ether_input_one(cpu, ifp, map.port[out - OUT_LOCAL].ifp, m)
        elif out == OUT_STACK:
            if vec.dst[i] & 1 or vec.dst[i] == ns_load_u64(&ifp.mac, RELAXED):
                ether_input_one(cpu, ifp, ifp, m)
            else:
                m_freem(cpu.pool, cpu.mag, m)
                stat_drop(cpu, ifp, <uint32_t> Drop.STP_STATE, 1)
        elif out == OUT_STP:
            m_freem(cpu.pool, cpu.mag, m)
            stat_drop(cpu, ifp, <uint32_t> Drop.CONTROL_ADDR, 1)
        else:
            m_freem(cpu.pool, cpu.mag, m)
            stat_drop(cpu, ifp, out - OUT_DROP, 1)
    ns_count_u64(&bstat.ipackets, forwarded)
    ns_count_u64(&bstat.ibytes, nbytes)
    ns_count_u64(&bstat.imcasts, mcasts)
    ns_count_u64(&bstat.flooded, flooded)
    vec.n = 0
