"""Transmit functions of real-world ports: if_snd empties into a socket or a TAP (packet(7), sendmmsg(2), tun(4)).

Context: the TX mutex is held.  The host may make a call wait 16 times 1 ms at most.
Outcome: each frame is sent, or a counted drop: TX_ERROR when the host refuses it, IF_DOWN when the port cannot send.
"""
from libc.errno cimport errno, EAGAIN, EBADF, EBADFD, EINTR, EIO, ENETDOWN, ENOBUFS, ENODEV, ENOMEM, ENXIO, EPIPE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from netstack._fast.atomics cimport ns_count_u64
from netstack._fast.cpu cimport cpu_t, txq_t
from netstack._fast.dispositions cimport Drop
from netstack._fast.hostsys cimport iovec, mmsghdr, pollfd, poll, sendmmsg, writev, MSG_DONTWAIT, POLLOUT
from netstack._fast.hostrx cimport TAP_FRAME_MAX
from netstack._fast.ifnet cimport ifstat_t
from netstack._fast.ifqueue cimport ifq_get
from netstack._fast.lock cimport sched_yield
from netstack._fast.mbuf cimport mbuf_t, vnet_t, m_freem
from netstack._fast.offload cimport gso_t, gso_begin, gso_next, m_csum_finish, VNET_NEEDS_CSUM

cdef enum:
    TX_BATCH = 64                # frames of one sendmmsg call
    TX_IOVS = 2304               # pieces of one batch; a 64 KiB frame has 34
    TX_FRAME_IOVS = 300          # pieces of one frame, and the longest chain sent
    TX_TRIES = 16                # repeats of refused calls, for a whole batch

cdef enum Verdict:
    AGAIN = 0                    # call again
    REFUSED = 1                  # this frame cannot be sent
    DOWN = 2                     # the port cannot send at all

cdef struct hosttx_t:            # transmit side of both kinds
    int fd                       # -1: closed
    int error                    # errno that took the port down; frames are dropped until it is cleared
    uint32_t vnet
    uint32_t pad
    uint64_t retries             # refused calls that were repeated
    uint64_t calls
    uint8_t *linear              # TAP_FRAME_MAX bytes, for cutting; NULL where offload headers are taken
    mbuf_t *batch[TX_BATCH]
    mmsghdr msg[TX_BATCH]
    iovec iov[TX_IOVS]

ctypedef void (*send_fn)(hosttx_t *tx, ifstat_t *stat, uint32_t begin, uint32_t end) noexcept nogil


cdef inline Verdict verdict(hosttx_t *tx, int error, uint32_t *tries) noexcept nogil:
    """What an errno of a send means; waits a little where the host has no room."""
    cdef pollfd room
    if error == EINTR:
        return AGAIN
    if error in (EAGAIN, ENOBUFS, ENOMEM):
        if tries[0] == 0:
            return REFUSED
        tries[0] -= 1
        ns_count_u64(&tx.retries, 1)
        if error == EAGAIN:
            room.fd = tx.fd
            room.events = POLLOUT
            poll(&room, 1, 1)
        else:
            sched_yield()
        return AGAIN
    if error in (ENETDOWN, ENXIO, ENODEV, EIO, EBADF, EBADFD, EPIPE):
        tx.error = error
        return DOWN
    return REFUSED               # EMSGSIZE, EINVAL: too long or malformed for this interface


cdef inline void vnet_clean(mbuf_t *m) noexcept nogil:
    """Make the offload state fit to be sent: only what the frame's receiver must still do (the mbuf's last use)."""
    m.m_vnet.flags &= VNET_NEEDS_CSUM
    if m.m_vnet.flags == 0:
        m.m_vnet.csum_start = 0
        m.m_vnet.csum_offset = 0
    if m.m_vnet.gso_type == 0:
        m.m_vnet.gso_size = 0
        m.m_vnet.hdr_len = 0


cdef inline uint32_t gather(mbuf_t *m, uint32_t vnet, iovec *iov) noexcept nogil:
    """Fill iov (TX_FRAME_IOVS) with the frame's pieces; how many, 0 when the chain is too long."""
    cdef uint32_t n = 0
    if vnet:
        vnet_clean(m)
        iov[0].iov_base = &m.m_vnet
        iov[0].iov_len = vnet
        n = 1
    while m != NULL:
        if n == TX_FRAME_IOVS:
            return 0
        iov[n].iov_base = &m.m_data[0]
        iov[n].iov_len = m.m_len
        n += 1
        m = m.m_next
    return n


cdef inline void sent(ifstat_t *stat, mbuf_t *m) noexcept nogil:
    """Count a frame the host took."""
    ns_count_u64(&stat.opackets, 1)
    ns_count_u64(&stat.obytes, m.m_pktlen)
    ns_count_u64(&stat.omcasts, m.m_data[0] & 1)


cdef inline void packet_send(hosttx_t *tx, ifstat_t *stat, uint32_t begin, uint32_t end) noexcept nogil:
    """Send batch[begin:end]; each frame ends as sent or as a named drop.  The caller frees them."""
    cdef uint32_t at, piece, iovs, n, i, tries = TX_TRIES
    cdef int done
    cdef Verdict what
    while begin < end:
        at = begin
        n = iovs = 0
        while at < end and iovs + TX_FRAME_IOVS <= TX_IOVS:
            piece = gather(tx.batch[at], tx.vnet, &tx.iov[iovs])
            if piece == 0:
                if n:
                    break
                ns_count_u64(&stat.drops[<uint32_t> Drop.TX_ERROR], 1)
                begin += 1
            else:
                tx.msg[n].msg_hdr.msg_iov = &tx.iov[iovs]
                tx.msg[n].msg_hdr.msg_iovlen = piece
                iovs += piece
                n += 1
            at += 1
        at = 0
        while at < n:
            done = sendmmsg(tx.fd, &tx.msg[at], n - at, MSG_DONTWAIT)
            ns_count_u64(&tx.calls, 1)
            if done > 0:
                for i in range(<uint32_t> done):
                    sent(stat, tx.batch[begin + at + i])
                at += <uint32_t> done
                continue
            what = verdict(tx, errno, &tries)
            if what == DOWN:
                ns_count_u64(&stat.drops[<uint32_t> Drop.IF_DOWN], end - begin - at)
                return
            if what == REFUSED:
                ns_count_u64(&stat.drops[<uint32_t> Drop.TX_ERROR], 1)
                at += 1
        begin += n


cdef inline Verdict tap_write(hosttx_t *tx, const iovec *iov, uint32_t n, uint32_t *tries) noexcept nogil:
    """One frame to the descriptor; AGAIN means done."""
    cdef Verdict what
    while True:
        ns_count_u64(&tx.calls, 1)
        if writev(tx.fd, iov, <int> n) >= 0:
            return AGAIN
        what = verdict(tx, errno, tries)
        if what != AGAIN:
            return what


cdef inline Verdict tap_cut(hosttx_t *tx, mbuf_t *m, uint32_t *tries) noexcept nogil:
    """Send a frame of many segments one by one: this descriptor takes no offload header."""
    cdef gso_t gso
    cdef iovec iov[2]
    cdef const uint8_t *payload = NULL
    cdef uint32_t nbytes = 0
    cdef vnet_t vnet = m.m_vnet
    cdef Verdict what
    if m.m_pktlen > TAP_FRAME_MAX:
        return REFUSED
    while m != NULL:
        memcpy(tx.linear + nbytes, &m.m_data[0], m.m_len)
        nbytes += m.m_len
        m = m.m_next
    if not gso_begin(&gso, tx.linear, nbytes, &vnet, 0):
        return REFUSED
    while gso.left:
        iov[1].iov_len = gso_next(&gso, &payload)
        iov[1].iov_base = <void *> payload
        iov[0].iov_base = &gso.header[0]
        iov[0].iov_len = gso.header_bytes
        what = tap_write(tx, &iov[0], 2, tries)
        if what != AGAIN:
            return what
    return AGAIN


cdef inline void tap_send(hosttx_t *tx, ifstat_t *stat, uint32_t begin, uint32_t end) noexcept nogil:
    """Send batch[begin:end], one call a frame; each frame ends as sent or as a named drop."""
    cdef uint32_t pieces, tries = TX_TRIES
    cdef Verdict what
    cdef mbuf_t *m
    while begin < end:
        m = tx.batch[begin]
        if tx.vnet == 0 and m.m_vnet.gso_type:
            what = tap_cut(tx, m, &tries)
        elif tx.vnet == 0 and m.m_vnet.flags & VNET_NEEDS_CSUM and not m_csum_finish(m):
            what = REFUSED
        else:
            pieces = gather(m, tx.vnet, &tx.iov[0])
            what = tap_write(tx, &tx.iov[0], pieces, &tries) if pieces else REFUSED
        if what == DOWN:
            ns_count_u64(&stat.drops[<uint32_t> Drop.IF_DOWN], end - begin)
            return
        if what == REFUSED:
            ns_count_u64(&stat.drops[<uint32_t> Drop.TX_ERROR], 1)
        else:
            sent(stat, m)
        begin += 1


cdef inline uint32_t host_start(cpu_t *cpu, txq_t *txq, send_fn send) noexcept nogil:
    """Empty if_snd into the descriptor, 64 frames at a time; how many left the queue."""
    cdef hosttx_t *tx = <hosttx_t *> txq.private
    cdef ifstat_t *stat = &txq.ifp.stat[cpu.index]
    cdef uint32_t n, i, total = 0
    while True:
        n = ifq_get(&txq.snd, &tx.batch[0], TX_BATCH)
        if n == 0:
            return total
        if tx.error or tx.fd < 0:
            ns_count_u64(&stat.drops[<uint32_t> Drop.IF_DOWN], n)
        else:
            send(tx, stat, 0, n)
        for i in range(n):
            m_freem(cpu.pool, cpu.mag, tx.batch[i])
        total += n


cdef inline uint32_t packet_start(cpu_t *cpu, txq_t *txq) noexcept nogil:
    """Transmit through an AF_PACKET socket (start_fn)."""
    return host_start(cpu, txq, packet_send)


cdef inline uint32_t tap_start(cpu_t *cpu, txq_t *txq) noexcept nogil:
    """Transmit through a TAP descriptor (start_fn)."""
    return host_start(cpu, txq, tap_send)
