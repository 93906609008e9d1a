"""Receive functions of real-world ports: frames from a packet ring or a TAP become mbufs (packet(7), tun(4)).

Context: softint of the RX queue, which is the only caller; no lock.
Outcome: each frame ends in the vector, or as a counted drop of the interface, then counted as received as well.
"""
from libc.errno cimport errno, EAGAIN, EINTR
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from netstack._fast.atomics cimport ns_count_u64, ns_load_u32, ns_store_u32, ACQREL
from netstack._fast.cpu cimport cpu_t, rxq_t
from netstack._fast.dispositions cimport Drop
from netstack._fast.hostsys cimport (iovec, readv, getsockopt, socklen_t, sockaddr_ll, tpacket3_hdr, tpacket_block_desc,
                                     TPACKET_ALIGN, PACKET_OUTGOING, SOL_SOCKET, SO_ERROR, TP_STATUS_KERNEL,
                                     TP_STATUS_USER, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID)
from netstack._fast.ifnet cimport ifnet_t, ifstat_t
from netstack._fast.kassert cimport ns_prefetch
from netstack._fast.mbuf cimport mbuf_t, pktvec_t, vnet_t, m_get, m_freem, MBUF_DATA_BYTES, M_BCAST, M_MCAST
from netstack._fast.offload cimport gso_t, gso_begin, gso_next, m_append, m_csum_finish, VNET_BYTES, VNET_NEEDS_CSUM

cdef enum:
    RX_LOST_MAX = 1024           # frames one call loses before it lets others run
    TAP_FRAME_MAX = 1 << 17      # bytes read from a TAP in one call

cdef struct packetrx_t:          # receive ring of an AF_PACKET socket, TPACKET_V3
    uint8_t *ring                # NULL: closed
    tpacket3_hdr *frame          # next frame of the block in hand
    uint32_t block_bytes
    uint32_t nblocks
    uint32_t block               # index of the block in hand, or to wait for
    uint32_t left                # frames of the block in hand
    uint32_t finish              # 1: finish offloaded frames here, for a machine whose other ports cannot
    int fd
    int error                    # errno the socket reported
    uint32_t pad
    gso_t gso                    # the frame in hand, when it is being cut

cdef struct taprx_t:
    int fd                       # -1: closed
    int error
    uint32_t vnet                # 10: offload headers precede frames; 0: they do not
    uint32_t pad
    uint8_t *spill               # TAP_FRAME_MAX bytes: what of a frame did not fit its first mbuf


cdef inline void lost(cpu_t *cpu, ifnet_t *ifp, uint32_t reason, uint64_t nbytes) noexcept nogil:
    """Count a frame that was received and does not reach the vector."""
    cdef ifstat_t *stat = &ifp.stat[cpu.index]
    ns_count_u64(&stat.ipackets, 1)
    ns_count_u64(&stat.ibytes, nbytes)
    ns_count_u64(&stat.drops[reason], 1)


cdef inline void finish_header(mbuf_t *m, ifnet_t *ifp, uint32_t nbytes) noexcept nogil:
    """Fill in the packet header of a received frame."""
    cdef uint8_t *to = &m.m_data[0]
    m.m_pktlen = nbytes
    m.m_rcvif = <uint16_t> ifp.index
    if to[0] & 1:
        m.m_flags = M_BCAST if to[0] & to[1] & to[2] & to[3] & to[4] & to[5] == 0xFF else M_MCAST


cdef inline mbuf_t *frame_in(cpu_t *cpu, const uint8_t *data, uint32_t nbytes, uint32_t tag) noexcept nogil:
    """Copy a frame into mbufs, with the VLAN tag the host took out put back; NULL when the pool is short."""
    cdef mbuf_t *head = m_get(cpu.pool, cpu.mag)
    cdef mbuf_t *tail = head
    cdef uint8_t words[4]
    if head == NULL:
        return NULL
    head.m_len = 0
    if tag and nbytes >= 12:
        words[0] = <uint8_t> (tag >> 24)
        words[1] = <uint8_t> (tag >> 16)
        words[2] = <uint8_t> (tag >> 8)
        words[3] = <uint8_t> tag
        memcpy(&head.m_data[0], data, 12)
        memcpy(&head.m_data[12], &words[0], 4)
        head.m_len = 16
        data += 12
        nbytes -= 12
    tail = m_append(cpu.pool, cpu.mag, tail, data, nbytes)
    if tail == NULL:
        m_freem(cpu.pool, cpu.mag, head)
        return NULL
    return head


cdef inline mbuf_t *segment_in(cpu_t *cpu, gso_t *gso, uint32_t *nbytes) noexcept nogil:
    """The next segment of the frame in hand, as mbufs; NULL when the pool is short (the segment is passed over)."""
    cdef const uint8_t *payload = NULL
    cdef uint32_t part = gso_next(gso, &payload)
    cdef mbuf_t *head = m_get(cpu.pool, cpu.mag)
    cdef mbuf_t *tail
    nbytes[0] = gso.header_bytes + part
    if head == NULL:
        return NULL
    head.m_len = 0
    tail = m_append(cpu.pool, cpu.mag, head, &gso.header[0], gso.header_bytes)
    if tail != NULL:
        tail = m_append(cpu.pool, cpu.mag, tail, payload, part)
    if tail == NULL:
        m_freem(cpu.pool, cpu.mag, head)
        return NULL
    return head


cdef inline tpacket_block_desc *block_of(packetrx_t *rx) noexcept nogil:
    """The block in hand."""
    return <tpacket_block_desc *> (rx.ring + <size_t> rx.block * rx.block_bytes)


cdef inline void block_done(packetrx_t *rx) noexcept nogil:
    """Give the block in hand back to the kernel: all its frames are copied."""
    ns_store_u32(&block_of(rx).hdr.bh1.block_status, TP_STATUS_KERNEL, ACQREL)
    rx.block += 1
    if rx.block == rx.nblocks:
        rx.block = 0


cdef inline bint frame_next(packetrx_t *rx) noexcept nogil:
    """Make rx.frame the next frame of the ring; false when the kernel has filled no further block."""
    cdef tpacket_block_desc *block
    while rx.left == 0:
        block = block_of(rx)
        if ns_load_u32(&block.hdr.bh1.block_status, ACQREL) & TP_STATUS_USER == 0:
            return False
        rx.left = block.hdr.bh1.num_pkts
        rx.frame = <tpacket3_hdr *> (<uint8_t *> block + block.hdr.bh1.offset_to_first_pkt)
        if rx.left == 0:
            block_done(rx)
    return True


cdef inline void frame_done(packetrx_t *rx) noexcept nogil:
    """Pass over rx.frame."""
    rx.left -= 1
    if rx.left == 0:
        block_done(rx)
    else:
        rx.frame = <tpacket3_hdr *> (<uint8_t *> rx.frame + rx.frame.tp_next_offset)
        ns_prefetch(rx.frame)


cdef inline mbuf_t *packet_take(cpu_t *cpu, packetrx_t *rx, ifnet_t *ifp) noexcept nogil:
    """Turn rx.frame into mbufs, or begin to cut it; NULL when it is cut, lost (and counted) or our own."""
    cdef tpacket3_hdr *frame = rx.frame
    cdef uint8_t *data = <uint8_t *> frame + frame.tp_mac
    cdef uint32_t nbytes = frame.tp_snaplen, tag = 0
    cdef sockaddr_ll *link = <sockaddr_ll *> (<uint8_t *> frame + TPACKET_ALIGN(sizeof(tpacket3_hdr)))
    cdef vnet_t vnet
    cdef mbuf_t *m
    if link.sll_pkttype == PACKET_OUTGOING:
        return NULL                                   # a kernel before 4.20 gives the host's own frames back
    if frame.tp_status & TP_STATUS_VLAN_VALID:
        tag = frame.hv1.tp_vlan_tci & 0xFFFF
        tag |= <uint32_t> (frame.hv1.tp_vlan_tpid if frame.tp_status & TP_STATUS_VLAN_TPID_VALID else 0x8100) << 16
    if nbytes < frame.tp_len:
        lost(cpu, ifp, Drop.GIANT, frame.tp_len)      # longer than a block: the kernel cut it
        return NULL
    memcpy(&vnet, data - VNET_BYTES, VNET_BYTES)
    if vnet.gso_type and rx.finish:
        if not gso_begin(&rx.gso, data, nbytes, &vnet, tag):
            lost(cpu, ifp, Drop.GIANT, nbytes)
        return NULL
    m = frame_in(cpu, data, nbytes, tag)
    if m == NULL:
        lost(cpu, ifp, Drop.NO_MBUF, nbytes)
        return NULL
    if tag:
        nbytes += 4
        vnet.csum_start += 4                          # the kernel counts without the tag it took out
        vnet.hdr_len += 4
    if vnet.flags & VNET_NEEDS_CSUM or vnet.gso_type:
        m.m_vnet = vnet
        if rx.finish:
            m_csum_finish(m)
    finish_header(m, ifp, nbytes)
    return m


cdef inline uint32_t packet_rx(cpu_t *cpu, rxq_t *rxq, pktvec_t *vec, uint32_t limit) noexcept nogil:
    """Take up to limit frames from the ring, in order (rx_fn)."""
    cdef packetrx_t *rx = <packetrx_t *> rxq.private
    cdef ifnet_t *ifp = rxq.ifp
    cdef uint32_t n = 0, passed = 0, nbytes = 0
    cdef mbuf_t *m
    cdef int error = 0
    cdef socklen_t width = sizeof(int)
    if rx.ring == NULL:
        return 0
    while n < limit and passed < RX_LOST_MAX:
        if rx.gso.left:
            m = segment_in(cpu, &rx.gso, &nbytes)
            if m == NULL:
                lost(cpu, ifp, Drop.NO_MBUF, nbytes)
            else:
                finish_header(m, ifp, nbytes)
        elif frame_next(rx):
            m = packet_take(cpu, rx, ifp)
        else:
            break
        if rx.gso.left == 0:
            frame_done(rx)
        if m == NULL:
            passed += 1
        else:
            vec.m[n] = m
            n += 1
    if n == 0 and passed == 0:
        # awake for nothing: the socket may have an error to report; reading it also ends the readiness
        if getsockopt(rx.fd, SOL_SOCKET, SO_ERROR, &error, &width) == 0 and error:
            rx.error = error
    return n


cdef inline mbuf_t *tap_take(cpu_t *cpu, taprx_t *rx, ifnet_t *ifp, ssize_t *got) noexcept nogil:
    """Read one frame; NULL when there is none (got <= 0) or it was lost and counted (got > 0)."""
    cdef iovec iov[3]
    cdef uint32_t nbytes, first = 1 if rx.vnet == 0 else 0
    cdef mbuf_t *m = m_get(cpu.pool, cpu.mag)
    cdef vnet_t vnet
    vnet.flags = vnet.gso_type = 0
    iov[0].iov_base = &vnet
    iov[0].iov_len = rx.vnet
    iov[1].iov_base = &m.m_data[0] if m != NULL else rx.spill
    iov[1].iov_len = MBUF_DATA_BYTES if m != NULL else TAP_FRAME_MAX
    iov[2].iov_base = rx.spill
    iov[2].iov_len = TAP_FRAME_MAX
    while True:
        got[0] = readv(rx.fd, &iov[first], (3 if m != NULL else 2) - first)
        if got[0] >= 0 or errno != EINTR:
            break
    if got[0] <= <ssize_t> rx.vnet:
        if got[0] < 0 and errno != EAGAIN:
            rx.error = errno
        if m != NULL:
            m_freem(cpu.pool, cpu.mag, m)
        return NULL
    nbytes = <uint32_t> got[0] - rx.vnet
    if m == NULL:
        lost(cpu, ifp, Drop.NO_MBUF, nbytes)
        return NULL
    m.m_len = nbytes
    if nbytes > MBUF_DATA_BYTES:
        m.m_len = MBUF_DATA_BYTES
        if m_append(cpu.pool, cpu.mag, m, rx.spill, nbytes - MBUF_DATA_BYTES) == NULL:
            m_freem(cpu.pool, cpu.mag, m)
            lost(cpu, ifp, Drop.NO_MBUF, nbytes)
            return NULL
    if vnet.flags & VNET_NEEDS_CSUM or vnet.gso_type:
        m.m_vnet = vnet
    finish_header(m, ifp, nbytes)
    return m


cdef inline uint32_t tap_rx(cpu_t *cpu, rxq_t *rxq, pktvec_t *vec, uint32_t limit) noexcept nogil:
    """Read up to limit frames (rx_fn)."""
    cdef taprx_t *rx = <taprx_t *> rxq.private
    cdef uint32_t n = 0, passed = 0
    cdef ssize_t got = 0
    cdef mbuf_t *m
    while n < limit and passed < RX_LOST_MAX and rx.fd >= 0:
        m = tap_take(cpu, rx, rxq.ifp, &got)
        if m != NULL:
            vec.m[n] = m
            n += 1
        elif got > 0:
            passed += 1
        else:
            break
    return n
