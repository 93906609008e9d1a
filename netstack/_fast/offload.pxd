"""Offload state finished in software: checksums left open, frames longer than a wire takes (RFC 1071, RFC 9293).

A Linux host hands over frames its NIC was to finish: the checksum of the transport header is open, or one frame stands
for many TCP or UDP segments (virtio_net_hdr).  Between two host ports that state travels in ``m_vnet``.  Where one end
is no host port the inlines below do the NIC's work.  Sums are in native byte order: one's complement does not mind.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from netstack._fast.defs cimport ETHER_HDR_LEN
from netstack._fast.mbuf cimport mbuf_t, mbufpool_t, magazine_t, vnet_t, m_get, m_freem, MBUF_DATA_BYTES

cdef extern from "arpa/inet.h" nogil:
    uint16_t htons(uint16_t v) noexcept
    uint32_t htonl(uint32_t v) noexcept
    uint16_t ntohs(uint16_t v) noexcept
    uint32_t ntohl(uint32_t v) noexcept

cdef enum:
    VNET_BYTES = 10              # what the kernel reads and writes: vnet_t without its pad
    VNET_NEEDS_CSUM = 1          # flags: csum_start and csum_offset are set
    VNET_GSO_TCPV4 = 1           # gso_type
    VNET_GSO_TCPV6 = 4
    VNET_GSO_UDP_L4 = 5
    VNET_GSO_ECN = 0x80          # with a TCP type: the first segment keeps CWR
    GSO_HEADER_MAX = 256         # Ethernet, tags, IP with options or extensions, TCP with options
    TCP_FIN_PSH = 0x09
    TCP_CWR = 0x80

cdef struct gso_t:               # a long frame on its way to becoming segments; payload stays where it is
    const uint8_t *payload       # of the next segment
    uint32_t left                # payload bytes not yet taken; 0: nothing in progress
    uint32_t segment_bytes       # payload of one segment
    uint32_t header_bytes
    uint32_t l3                  # offset of the IP header in header
    uint32_t l4                  # offset of the TCP or UDP header in header
    uint32_t sequence            # TCP sequence number of the next segment
    uint32_t is_first
    uint16_t ip_id
    uint8_t is_v6
    uint8_t is_udp
    uint8_t tcp_flags
    uint8_t pad[3]
    uint8_t header[GSO_HEADER_MAX]


cdef inline uint16_t be16(const uint8_t *p) noexcept nogil:
    """Two bytes in network order."""
    return <uint16_t> ((p[0] << 8) | p[1])


cdef inline void put16(uint8_t *p, uint16_t v) noexcept nogil:
    """Store as it stands, at any alignment."""
    memcpy(p, &v, 2)


cdef inline uint64_t csum_add(uint64_t total, const uint8_t *p, uint32_t n) noexcept nogil:
    """Add n bytes that start at an even offset of what is summed."""
    cdef uint32_t word = 0
    cdef uint16_t half = 0
    while n >= 4:
        memcpy(&word, p, 4)
        total += word
        p += 4
        n -= 4
    if n >= 2:
        memcpy(&half, p, 2)
        total += half
        p += 2
        n -= 2
    if n:
        half = 0
        memcpy(&half, p, 1)      # the missing byte counts as zero
        total += half
    return total


cdef inline uint16_t csum_fold(uint64_t total) noexcept nogil:
    """One's complement sum of 16 bits."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t> total


cdef inline uint16_t csum_field(uint64_t total) noexcept nogil:
    """What stands in the header: the complement; never zero, which in UDP says 'no checksum'."""
    cdef uint16_t v = ~csum_fold(total) & 0xFFFF
    return v if v else 0xFFFF


cdef inline bint m_csum_finish(mbuf_t *m) noexcept nogil:
    """Fill in the open checksum of a frame and clear its offload state; false when the state is nonsense."""
    cdef uint32_t start = m.m_vnet.csum_start, field = start + m.m_vnet.csum_offset, at = 0, begin
    cdef uint64_t total = 0
    cdef uint16_t part
    cdef mbuf_t *piece = m
    # the field lies in the first mbuf (2062 bytes); headers are never longer
    if field + 2 > m.m_len or start < ETHER_HDR_LEN:
        return False
    while piece != NULL:
        if at + piece.m_len > start:
            begin = start - at if start > at else 0
            part = csum_fold(csum_add(0, &piece.m_data[begin], piece.m_len - begin))
            if (at + begin - start) & 1:
                part = <uint16_t> ((part << 8) | (part >> 8))
            total += part
        at += piece.m_len
        piece = piece.m_next
    put16(&m.m_data[field], csum_field(total))
    m.m_vnet.flags = 0
    return True


cdef inline uint32_t transport_offset(const uint8_t *frame, uint32_t nbytes, uint32_t *l3, uint8_t *is_v6,
                                      uint8_t *protocol) noexcept nogil:
    """Offset of the transport header of an IP frame with up to two VLAN tags; 0 when there is none in reach."""
    cdef uint32_t at = 12, _i
    cdef uint16_t kind = 0
    for _i in range(3):
        if nbytes < at + 2:
            return 0
        kind = be16(frame + at)
        if kind != 0x8100 and kind != 0x88A8:
            break
        at += 4
    l3[0] = at = at + 2
    if kind == 0x0800:
        if nbytes < at + 20 or frame[at] >> 4 != 4 or frame[at] & 15 < 5:
            return 0
        if be16(frame + at + 6) & 0x3FFF:
            return 0                                  # a fragment
        is_v6[0] = 0
        protocol[0] = frame[at + 9]
        return at + (frame[at] & 15) * 4
    if kind != 0x86DD or nbytes < at + 40 or frame[at] >> 4 != 6:
        return 0
    is_v6[0] = 1
    protocol[0] = frame[at + 6]
    at += 40
    for _i in range(8):
        if protocol[0] != 0 and protocol[0] != 60:
            return at                                 # a routing header, which moves the destination, ends here too
        if nbytes < at + 8:
            return 0
        protocol[0] = frame[at]
        at += (<uint32_t> frame[at + 1] + 1) * 8
    return 0


cdef inline bint gso_begin(gso_t *gso, const uint8_t *frame, uint32_t nbytes, const vnet_t *vnet,
                           uint32_t tag) noexcept nogil:
    """Prepare to cut a frame (contiguous; stays in place until left is 0); tag is TPID << 16 | TCI or 0.

    False for what is no TCP or UDP over IP, or whose headers do not agree with the offload state.
    """
    cdef uint32_t l3 = 0, l4, shift = 4 if tag else 0, header, kind = vnet.gso_type & 0x7F, wanted
    cdef uint8_t protocol = 0
    gso.left = 0
    l4 = transport_offset(frame, nbytes, &l3, &gso.is_v6, &protocol)
    if l4 == 0 or nbytes < l4 + 8 or vnet.gso_size == 0:
        return False
    if vnet.flags & VNET_NEEDS_CSUM and vnet.csum_start != l4:
        return False
    gso.is_udp = kind == VNET_GSO_UDP_L4
    if gso.is_udp:
        if protocol != 17:
            return False
        header = l4 + 8
    else:
        wanted = VNET_GSO_TCPV6 if gso.is_v6 else VNET_GSO_TCPV4
        if kind != wanted or protocol != 6 or nbytes < l4 + 20:
            return False
        header = l4 + (frame[l4 + 12] >> 4) * 4
        if header < l4 + 20:
            return False
    if header + shift > GSO_HEADER_MAX or header >= nbytes:
        return False
    if tag:
        memcpy(&gso.header[0], frame, 12)
        put16(&gso.header[12], htons(<uint16_t> (tag >> 16)))
        put16(&gso.header[14], htons(<uint16_t> tag))
        memcpy(&gso.header[16], frame + 12, header - 12)
    else:
        memcpy(&gso.header[0], frame, header)
    gso.header_bytes = header + shift
    gso.l3 = l3 + shift
    gso.l4 = l4 + shift
    gso.payload = frame + header
    gso.left = nbytes - header
    gso.segment_bytes = vnet.gso_size
    gso.is_first = 1
    if not gso.is_v6:
        gso.ip_id = be16(&gso.header[gso.l3 + 4])
    if not gso.is_udp:
        memcpy(&gso.sequence, &gso.header[gso.l4 + 4], 4)
        gso.sequence = ntohl(gso.sequence)
        gso.tcp_flags = gso.header[gso.l4 + 13]
    return True


cdef inline uint32_t gso_next(gso_t *gso, const uint8_t **payload) noexcept nogil:
    """Make gso.header that of the next segment; its payload's length and address.  gso.left must not be 0."""
    cdef uint32_t nbytes = gso.segment_bytes, l3 = gso.l3, l4 = gso.l4, word, length
    cdef uint64_t total
    cdef uint8_t *header = &gso.header[0]
    if nbytes > gso.left:
        nbytes = gso.left
    payload[0] = gso.payload
    length = gso.header_bytes - l4 + nbytes          # transport header and payload
    # the pseudo header: both addresses, protocol, length
    total = htons(17 if gso.is_udp else 6) + htons(<uint16_t> length)
    if gso.is_v6:
        put16(header + l3 + 4, htons(<uint16_t> (gso.header_bytes - l3 - 40 + nbytes)))
        total = csum_add(total, header + l3 + 8, 32)
    else:
        put16(header + l3 + 2, htons(<uint16_t> (gso.header_bytes - l3 + nbytes)))
        put16(header + l3 + 4, htons(gso.ip_id))
        put16(header + l3 + 10, 0)
        put16(header + l3 + 10, csum_field(csum_add(0, header + l3, l4 - l3)))
        total = csum_add(total, header + l3 + 12, 8)
        gso.ip_id += 1
    if gso.is_udp:
        put16(header + l4 + 4, htons(<uint16_t> length))
        put16(header + l4 + 6, 0)
    else:
        word = htonl(gso.sequence)
        memcpy(header + l4 + 4, &word, 4)
        header[l4 + 13] = gso.tcp_flags
        if not gso.is_first:
            header[l4 + 13] &= 0xFF ^ TCP_CWR        # congestion is answered once (RFC 3168)
        if gso.left > nbytes:
            header[l4 + 13] &= 0xFF ^ TCP_FIN_PSH    # these belong to the end of the data
        put16(header + l4 + 16, 0)
        gso.sequence += nbytes
    total += csum_fold(csum_add(0, gso.payload, nbytes)) + csum_fold(csum_add(0, header + l4, gso.header_bytes - l4))
    put16(header + l4 + (6 if gso.is_udp else 16), csum_field(total))
    gso.payload += nbytes
    gso.left -= nbytes
    gso.is_first = 0
    return nbytes


cdef inline mbuf_t *m_append(mbufpool_t *pool, magazine_t *mag, mbuf_t *tail, const uint8_t *data,
                             uint32_t nbytes) noexcept nogil:
    """Append bytes to a chain under construction; its new last mbuf, or NULL when the pool is short."""
    cdef uint32_t part
    while nbytes:
        if tail.m_len == MBUF_DATA_BYTES:
            tail.m_next = m_get(pool, mag)
            if tail.m_next == NULL:
                return NULL
            tail = tail.m_next
            tail.m_len = 0
        part = MBUF_DATA_BYTES - tail.m_len
        if part > nbytes:
            part = nbytes
        memcpy(&tail.m_data[tail.m_len], data, part)
        tail.m_len += part
        data += part
        nbytes -= part
    return tail
