"""Reading Ethernet headers as 64-bit keys: first byte of an address lowest, so the group bit is bit 0."""
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy
from netstack._fast.defs cimport MAC_MASK

cdef enum:
    ETHERTYPE_VLAN_LE = 0x0081   # 0x8100 as it lies in memory
    ETHERTYPE_QINQ_LE = 0xA888   # 0x88a8
    BPDU_KEY = 0xC28001          # 01:80:c2:00:00:00
    CONTROL_MASK = 0xF0FFFFFFFFFF


cdef inline uint64_t ether_dst(const uint8_t *frame) noexcept nogil:
    """Destination of a frame of at least 14 bytes."""
    cdef uint64_t w
    memcpy(&w, frame, 8)
    return w & MAC_MASK


cdef inline uint64_t ether_src_type(const uint8_t *frame) noexcept nogil:
    """Source in the low 48 bits, type as it lies in memory above."""
    cdef uint64_t w
    memcpy(&w, frame + 6, 8)
    return w


cdef inline bint ether_is_group(uint64_t key) noexcept nogil:
    return (key & 1) != 0


cdef inline bint ether_is_control(uint64_t key) noexcept nogil:
    """01:80:c2:00:00:00..0f: for the neighbour, never to be forwarded (IEEE 802.1D-2004 §7.12.6)."""
    return (key & CONTROL_MASK) == BPDU_KEY
