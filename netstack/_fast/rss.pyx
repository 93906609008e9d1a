"""Receive side scaling: Toeplitz hash and redirection table (paper §5.3; Microsoft RSS; Intel 82576 datasheet
§7.1.1.8).

Context: device model and set-up code; stateless but for the table.
Hashes IPv4 and IPv6 source and destination, and the ports of TCP and UDP; other frames hash to 0 and go to queue 0.
"""
from libc.stdint cimport uint8_t, uint32_t

DEFAULT_KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")

cdef enum:
    INPUT_MAX = 36
    TABLE_SLOTS = 128


cdef uint32_t toeplitz_of(const uint8_t *key, const uint8_t *data, uint32_t nbytes) noexcept nogil:
    """XOR of the 32-bit key windows that start where the input has a one bit, most significant bit first."""
    cdef uint32_t result = 0, window, i
    cdef int bit
    window = <uint32_t> key[0] << 24 | <uint32_t> key[1] << 16 | <uint32_t> key[2] << 8 | key[3]
    for i in range(nbytes):
        for bit in range(7, -1, -1):
            if data[i] >> bit & 1:
                result ^= window
            window = window << 1 | (key[i + 4] >> bit & 1)
    return result


def toeplitz(key: bytes, data: bytes) -> int:
    """Hash of up to 36 input bytes (addresses and ports in network order) under a 40-byte key."""
    cdef const uint8_t[::1] k = key
    cdef const uint8_t[::1] d = data
    if k.shape[0] != 40 or not 0 < d.shape[0] <= INPUT_MAX:
        raise ValueError("the key has 40 bytes, the input 1..36")
    return toeplitz_of(&k[0], &d[0], <uint32_t> d.shape[0])


cdef class Rss:
    """Hash and queue of a frame, as the NIC computes them."""
    cdef uint8_t _key[40]
    cdef uint8_t _table[TABLE_SLOTS]
    cdef bint _udp

    def __cinit__(self, key: bytes = DEFAULT_KEY, table: bytes = bytes(TABLE_SLOTS), udp: bool = True):
        cdef int i
        if len(key) != 40:
            raise ValueError("an RSS key has 40 bytes")
        for i in range(40):
            self._key[i] = key[i]
        self._udp = udp
        self.table = table

    @property
    def table(self) -> bytes:
        """Redirection table: queue of each of the 128 values of the low seven hash bits."""
        return bytes([self._table[i] for i in range(TABLE_SLOTS)])

    @table.setter
    def table(self, value: bytes):
        cdef int i
        if len(value) != TABLE_SLOTS:
            raise ValueError("a redirection table has 128 entries")
        for i in range(TABLE_SLOTS):
            self._table[i] = value[i]

    cdef uint32_t _hash(self, const uint8_t *p, uint32_t n) noexcept nogil:
        cdef uint8_t data[INPUT_MAX]
        cdef uint32_t at = 12, addresses, length, i, l4
        cdef uint8_t proto
        while n >= at + 4 and p[at] == 0x81 and p[at + 1] == 0x00 and at < 20:
            at += 4
        if n < at + 2:
            return 0
        if p[at] == 0x08 and p[at + 1] == 0x00:
            at += 2
            if n < at + 20 or p[at] >> 4 != 4:
                return 0
            addresses = at + 12
            length = 8
            proto = p[at + 9]
            l4 = at + (p[at] & 15) * 4
            if (p[at + 6] & 0x3F) or p[at + 7]:
                proto = 0                # a fragment has no ports
        elif p[at] == 0x86 and p[at + 1] == 0xDD:
            at += 2
            if n < at + 40:
                return 0
            addresses = at + 8
            length = 32
            proto = p[at + 6]
            l4 = at + 40
        else:
            return 0
        for i in range(length):
            data[i] = p[addresses + i]
        if (proto == 6 or (proto == 17 and self._udp)) and n >= l4 + 4:
            for i in range(4):
                data[length + i] = p[l4 + i]
            length += 4
        return toeplitz_of(&self._key[0], data, length)

    def hash(self, frame) -> int:
        """32-bit hash of a frame (any C-contiguous buffer)."""
        cdef const uint8_t[::1] view = memoryview(frame).cast("B")
        if view.shape[0] == 0:
            return 0
        return self._hash(&view[0], <uint32_t> view.shape[0])

    def queue(self, frame) -> int:
        """Receive queue of a frame."""
        return self._table[self.hash(frame) & (TABLE_SLOTS - 1)]
