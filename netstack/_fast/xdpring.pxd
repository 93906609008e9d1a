"""Receive and transmit functions of AF_XDP ports: four rings shared with the host's kernel (Linux af_xdp.rst).

A ring has one producer and one consumer; indices run freely.  Fill: chunks we give for receiving.  RX: chunks with
frames.  TX: chunks to send.  Completion: chunks that were sent.  Half of the chunks of a socket's memory belong to
receiving, half to sending, so that the two sides share nothing and need no lock.

Context: ``xdp_rx`` softint of the RX queue; ``xdp_start`` the TX mutex is held.
Outcome: as in ``hostrx.pxd`` and ``hosttx.pxd``: each frame goes on or is a counted drop.
"""
from libc.errno cimport errno, EAGAIN, EBUSY, EINTR, ENETDOWN, ENXIO, ENODEV, EIO, EBADF, ENOBUFS, ENOMEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from netstack._fast.atomics cimport ns_count_u64, ns_load_u32, ns_store_u32, ACQREL, RELAXED
from netstack._fast.cpu cimport cpu_t, rxq_t, txq_t
from netstack._fast.dispositions cimport Drop
from netstack._fast.hostrx cimport finish_header, frame_in, lost
from netstack._fast.hosttx cimport sent
from netstack._fast.ifnet cimport ifstat_t
from netstack._fast.ifqueue cimport ifq_get
from netstack._fast.kassert cimport ns_prefetch
from netstack._fast.lock cimport sched_yield
from netstack._fast.mbuf cimport mbuf_t, pktvec_t, vnet_t, m_freem
from netstack._fast.offload cimport gso_t, gso_begin, gso_next, m_csum_finish, VNET_NEEDS_CSUM

cdef extern from "sys/socket.h" nogil:
    ssize_t sendto(int fd, const void *buf, size_t n, int flags, const void *addr, unsigned int addrlen) noexcept
    enum:
        MSG_DONTWAIT

cdef extern from "linux/if_xdp.h" nogil:
    cdef struct xdp_desc:
        uint64_t addr
        uint32_t len
        uint32_t options

cdef enum:
    XDP_BATCH = 64               # frames taken from if_snd at a time
    XDP_TRIES = 64               # calls without progress before what is left is dropped
    XDP_LINEAR_MAX = 1 << 17     # the longest frame that is cut for sending

cdef struct xdpring_t:
    uint32_t *producer
    uint32_t *consumer
    void *desc
    uint32_t mask
    uint32_t next                # our own index

cdef struct xdprx_t:
    uint8_t *umem                # NULL: closed
    xdpring_t rx
    xdpring_t fill
    uint64_t chunk_mask          # address to chunk
    int fd
    int error

cdef struct xdptx_t:
    uint8_t *umem
    xdpring_t tx
    xdpring_t comp
    uint64_t *chunk              # stack of free chunks
    uint8_t *linear              # XDP_LINEAR_MAX bytes, for cutting
    uint64_t retries
    uint64_t calls
    uint32_t nfree
    uint32_t chunk_bytes
    int fd                       # -1: closed
    int error
    mbuf_t *batch[XDP_BATCH]


cdef inline uint32_t xdp_rx(cpu_t *cpu, rxq_t *rxq, pktvec_t *vec, uint32_t limit) noexcept nogil:
    """Take up to limit frames, in order, and give their chunks back to the kernel (rx_fn)."""
    cdef xdprx_t *rx = <xdprx_t *> rxq.private
    cdef xdp_desc *desc = <xdp_desc *> rx.rx.desc
    cdef xdp_desc *one
    cdef uint64_t *fill = <uint64_t *> rx.fill.desc
    cdef uint32_t n = 0, count, i
    cdef mbuf_t *m
    if rx.umem == NULL:
        return 0
    count = ns_load_u32(rx.rx.producer, ACQREL) - rx.rx.next
    if count > limit:
        count = limit
    for i in range(count):
        one = &desc[(rx.rx.next + i) & rx.rx.mask]
        if i + 1 < count:
            ns_prefetch(rx.umem + desc[(rx.rx.next + i + 1) & rx.rx.mask].addr)
        m = frame_in(cpu, rx.umem + one.addr, one.len, 0)
        if m == NULL:
            lost(cpu, rxq.ifp, Drop.NO_MBUF, one.len)
        else:
            finish_header(m, rxq.ifp, one.len)
            vec.m[n] = m
            n += 1
        fill[(rx.fill.next + i) & rx.fill.mask] = one.addr & rx.chunk_mask
    if count:
        rx.rx.next += count
        rx.fill.next += count
        ns_store_u32(rx.rx.consumer, rx.rx.next, ACQREL)
        ns_store_u32(rx.fill.producer, rx.fill.next, ACQREL)
    return n


cdef inline void xdp_reap(xdptx_t *tx) noexcept nogil:
    """Take back the chunks that were sent."""
    cdef uint64_t *done = <uint64_t *> tx.comp.desc
    cdef uint32_t count = ns_load_u32(tx.comp.producer, ACQREL) - tx.comp.next, i
    for i in range(count):
        tx.chunk[tx.nfree + i] = done[(tx.comp.next + i) & tx.comp.mask] & ~<uint64_t> (tx.chunk_bytes - 1)
    if count:
        tx.nfree += count
        tx.comp.next += count
        ns_store_u32(tx.comp.consumer, tx.comp.next, ACQREL)


cdef inline void xdp_kick(xdptx_t *tx) noexcept nogil:
    """Have the kernel send what is on the ring: one call does 32 frames in copy mode."""
    cdef uint32_t tries = XDP_TRIES, before, now = ns_load_u32(tx.tx.consumer, ACQREL)
    while now != tx.tx.next and tries:
        before = now
        ns_count_u64(&tx.calls, 1)
        if sendto(tx.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0:
            if errno in (ENETDOWN, ENXIO, ENODEV, EIO, EBADF):
                tx.error = errno
                return
        now = ns_load_u32(tx.tx.consumer, ACQREL)
        if now == before:
            tries -= 1
            ns_count_u64(&tx.retries, 1)
            sched_yield()


cdef inline void xdp_queue(xdptx_t *tx, uint32_t nbytes) noexcept nogil:
    """Put the chunk on top of the stack, which has been filled, on the ring."""
    cdef xdp_desc *one = &(<xdp_desc *> tx.tx.desc)[tx.tx.next & tx.tx.mask]
    tx.nfree -= 1
    one.addr = tx.chunk[tx.nfree]
    one.len = nbytes
    one.options = 0
    tx.tx.next += 1


cdef inline bint xdp_room(xdptx_t *tx) noexcept nogil:
    """Make sure that a chunk is free; false when the kernel gives none back."""
    cdef uint32_t tries = XDP_TRIES
    xdp_reap(tx)
    while tx.nfree == 0:
        if tries == 0 or tx.error:
            return False
        tries -= 1
        ns_store_u32(tx.tx.producer, tx.tx.next, ACQREL)
        xdp_kick(tx)
        xdp_reap(tx)
    return True


cdef inline bint xdp_copy(xdptx_t *tx, mbuf_t *m) noexcept nogil:
    """One frame into a chunk and on the ring; false when it does not fit one, or there is none."""
    cdef uint8_t *to
    if m.m_pktlen > tx.chunk_bytes or not xdp_room(tx):
        return False
    to = tx.umem + tx.chunk[tx.nfree - 1]
    xdp_queue(tx, m.m_pktlen)
    while m != NULL:
        memcpy(to, &m.m_data[0], m.m_len)
        to += m.m_len
        m = m.m_next
    return True


cdef inline bint xdp_cut(xdptx_t *tx, mbuf_t *m) noexcept nogil:
    """Send a frame of many segments one by one: the ring takes no offload header."""
    cdef gso_t gso
    cdef const uint8_t *payload = NULL
    cdef uint32_t nbytes = 0, part
    cdef vnet_t vnet = m.m_vnet
    cdef uint8_t *to
    if m.m_pktlen > XDP_LINEAR_MAX:
        return False
    while m != NULL:
        memcpy(tx.linear + nbytes, &m.m_data[0], m.m_len)
        nbytes += m.m_len
        m = m.m_next
    if not gso_begin(&gso, tx.linear, nbytes, &vnet, 0):
        return False
    while gso.left:
        part = gso_next(&gso, &payload)
        if gso.header_bytes + part > tx.chunk_bytes or not xdp_room(tx):
            return False
        to = tx.umem + tx.chunk[tx.nfree - 1]
        xdp_queue(tx, gso.header_bytes + part)
        memcpy(to, &gso.header[0], gso.header_bytes)
        memcpy(to + gso.header_bytes, payload, part)
    return True


cdef inline bint xdp_put(xdptx_t *tx, mbuf_t *m) noexcept nogil:
    """One frame of whatever kind."""
    if m.m_vnet.gso_type:
        return xdp_cut(tx, m)
    if m.m_vnet.flags & VNET_NEEDS_CSUM and not m_csum_finish(m):
        return False
    return xdp_copy(tx, m)


cdef inline uint32_t xdp_start(cpu_t *cpu, txq_t *txq) noexcept nogil:
    """Empty if_snd into the TX ring (start_fn); how many frames left the queue."""
    cdef xdptx_t *tx = <xdptx_t *> txq.private
    cdef ifstat_t *stat = &txq.ifp.stat[cpu.index]
    cdef uint32_t n, i, total = 0
    while True:
        n = ifq_get(&txq.snd, &tx.batch[0], XDP_BATCH)
        if n == 0:
            return total
        for i in range(n):
            if tx.error or tx.fd < 0:
                ns_count_u64(&stat.drops[<uint32_t> Drop.IF_DOWN], 1)
            elif xdp_put(tx, tx.batch[i]):
                sent(stat, tx.batch[i])
            else:
                ns_count_u64(&stat.drops[<uint32_t> Drop.TX_ERROR], 1)
            m_freem(cpu.pool, cpu.mag, tx.batch[i])
        total += n
        if tx.error == 0 and tx.fd >= 0:
            ns_store_u32(tx.tx.producer, tx.tx.next, ACQREL)
            xdp_kick(tx)
