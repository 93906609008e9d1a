"""Mbufs, the pool they come from, and the packet vector (paper §2.1; NetBSD mbuf(9), pool_cache(9)).

An mbuf is one element of a slab.  Its header and the Ethernet header share the first cache line; the element
stride is 33
lines: an odd number, because a power-of-two stride makes all headers collide in a few cache sets.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset
from netstack._fast.atomics cimport ns_count_u32
from netstack._fast.defs cimport VEC_MAX, CPU_MAX, ETHER_HDR_LEN
from netstack._fast.kassert cimport KASSERT, NS_CHECKED
from netstack._fast.lock cimport spin_t, spin_enter, spin_exit
from netstack._fast.sanitize cimport ns_poison, ns_unpoison
from netstack._fast.mutants cimport ns_mutant, MUT_DEPOT_LOCK_GAP

cdef enum:
    MBUF_DATA_OFFSET = 50                # so that the IP header starts on its own cache line
    MBUF_DATA_BYTES = 2062               # bytes of frame one mbuf holds
    MBUF_STRIDE = 2112                   # 33 cache lines
    MAG_MAX = 1024                       # mbufs one magazine holds; twice the largest burst and more
    M_LIVE = 0x4C495645
    M_FREE = 0x46524545
    M_POISON = 0x5E5E5E5E                # what a free mbuf holds in checked builds
    M_BCAST = 1
    M_MCAST = 2

cdef struct vnet_t:                      # virtio_net_hdr as AF_PACKET and TAP pass it: offload state of the frame
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset
    uint16_t pad

cdef struct mbuf_t:
    mbuf_t *m_next                       # rest of a frame longer than MBUF_DATA_BYTES
    uint32_t m_pktlen                    # bytes in the whole chain (head only)
    uint32_t m_len                       # bytes in this mbuf
    uint32_t m_flags                     # M_BCAST, M_MCAST
    uint16_t m_rcvif                     # index of the receive interface
    uint16_t m_cpu                       # CPU that allocated it
    uint32_t m_state                     # M_LIVE or M_FREE; checked builds verify it
    uint32_t m_aux                       # punt kind while on a punt ring, else scratch of the holder
    vnet_t m_vnet
    uint32_t m_spare
    uint8_t m_pad[2]
    uint8_t m_data[MBUF_DATA_BYTES]

cdef struct magazine_t:                  # one per CPU, touched by that CPU only
    uint32_t n
    uint32_t cap
    uint32_t id
    uint32_t failures                    # allocations that found pool and magazine empty
    uint64_t pad[6]
    mbuf_t *obj[MAG_MAX]

cdef struct mbufpool_t:
    uint8_t *slab
    mbuf_t **depot                       # guarded by lock
    uint32_t depot_n                     # guarded by lock
    uint32_t nmbufs
    uint32_t nmag                        # CPUs + 1: the last magazine serves callers that are no CPU
    spin_t lock
    spin_t control_lock                  # guards the last magazine
    magazine_t *mag[CPU_MAX + 1]

cdef struct pktvec_t:                    # 1..VEC_MAX frames of one receive interface and queue
    uint32_t n
    uint16_t rcvif
    uint16_t queue
    uint32_t out_ports                   # number of ports in use after bridge_split
    uint32_t inport                      # ingress port and port map that bridge_decide used
    void *map                            # brmap_t; valid inside the read section
    uint64_t nbytes                      # of all frames, set with the keys
    uint32_t one_out                     # bridge_decide: every frame leaves by out[0]
    uint32_t spare
    mbuf_t *m[VEC_MAX]
    uint64_t dst[VEC_MAX]                # 48-bit keys, first byte of the address lowest
    uint64_t src[VEC_MAX]
    uint16_t out[VEC_MAX]                # port, or an OUT_* code of bridge.pxd

cdef inline uint32_t mag_refill(mbufpool_t *pool, magazine_t *mag, uint32_t want) noexcept nogil:
    """Top the magazine up from the depot to half its capacity, or to want; how many of want there are."""
    cdef uint32_t target = mag.cap >> 1, take
    if target < want:
        target = want
    spin_enter(&pool.lock)
    take = target - mag.n
    if take > pool.depot_n:
        take = pool.depot_n
    if ns_mutant(MUT_DEPOT_LOCK_GAP):
        spin_exit(&pool.lock)
        spin_enter(&pool.lock)
    KASSERT(take <= pool.depot_n, b"mbuf depot: more taken than there are")
    pool.depot_n -= take
    memcpy(&mag.obj[mag.n], &pool.depot[pool.depot_n], take * sizeof(void *))
    spin_exit(&pool.lock)
    mag.n += take
    return want if mag.n >= want else mag.n


cdef inline void mag_spill(mbufpool_t *pool, magazine_t *mag) noexcept nogil:
    """Move the older half of a full magazine to the depot: what was touched last stays with this CPU."""
    cdef uint32_t half = mag.cap >> 1
    spin_enter(&pool.lock)
    memcpy(&pool.depot[pool.depot_n], &mag.obj[0], half * sizeof(void *))
    pool.depot_n += half
    spin_exit(&pool.lock)
    mag.n -= half
    memmove(&mag.obj[0], &mag.obj[half], mag.n * sizeof(void *))


cdef inline mbuf_t *m_of_data(uint8_t *data) noexcept nogil:
    """The mbuf whose frame starts at data (descriptors carry the data address only)."""
    return <mbuf_t *> (data - MBUF_DATA_OFFSET)


cdef inline uint32_t m_reserve(mbufpool_t *pool, magazine_t *mag, uint32_t want) noexcept nogil:
    """Make up to want (<= VEC_MAX) mbufs available on top of the magazine; how many there are."""
    if mag.n >= want:
        return want
    return mag_refill(pool, mag, want)


cdef inline void m_poison(mbuf_t *m) noexcept nogil:
    """Fill what a stale holder might read with nonsense: length, next mbuf, frame."""
    m.m_next = <mbuf_t *> (<size_t> M_POISON << 32 | M_POISON)     # no address: following it faults
    m.m_len = m.m_pktlen = M_POISON
    memset(&m.m_data[0], M_POISON & 0xFF, MBUF_DATA_BYTES)


cdef inline bint m_is_poisoned(mbuf_t *m) noexcept nogil:
    """Nobody has written to the mbuf since m_poison."""
    cdef uint8_t *byte = &m.m_data[0]
    return (<size_t> m.m_next == (<size_t> M_POISON << 32 | M_POISON) and m.m_len == M_POISON
            and byte[0] == M_POISON & 0xFF and memcmp(byte, byte + 1, MBUF_DATA_BYTES - 1) == 0)


cdef inline void m_goes_live(mbuf_t *m) noexcept nogil:
    """The mbuf leaves a magazine.  Checked builds: it must have rested there untouched."""
    ns_unpoison(m, MBUF_STRIDE)
    if NS_CHECKED:
        KASSERT(m.m_state == M_FREE, b"mbuf handed out twice")
        KASSERT(m_is_poisoned(m), b"mbuf written after it was freed")
        m.m_state = M_LIVE


cdef inline mbuf_t *m_take(magazine_t *mag) noexcept nogil:
    """Pop one mbuf; the magazine must not be empty.  Header fields are set by the receiver."""
    mag.n -= 1
    m_goes_live(mag.obj[mag.n])
    return mag.obj[mag.n]


cdef inline mbuf_t *m_get(mbufpool_t *pool, magazine_t *mag) noexcept nogil:
    """One mbuf with an empty header, or NULL."""
    cdef mbuf_t *m
    if mag.n == 0 and mag_refill(pool, mag, 1) == 0:
        ns_count_u32(&mag.failures, 1)
        return NULL
    m = m_take(mag)
    m.m_next = NULL
    m.m_flags = 0
    m.m_vnet.flags = 0
    m.m_vnet.gso_type = 0
    return m


cdef inline void m_goes_free(mbuf_t *m) noexcept nogil:
    """The mbuf enters a magazine: from now on it is nobody's (AddressSanitizer reports who touches it)."""
    if NS_CHECKED:
        KASSERT(m.m_state == M_LIVE, b"mbuf freed twice")
        m.m_state = M_FREE
        m_poison(m)
    ns_poison(m, MBUF_STRIDE)


cdef inline uint32_t m_room(mbufpool_t *pool, magazine_t *mag) noexcept nogil:
    """Make room for mbufs on top of the magazine; how many fit before the next call."""
    if mag.n == mag.cap:
        mag_spill(pool, mag)
    return mag.cap - mag.n


cdef inline void m_put(mbufpool_t *pool, magazine_t *mag, mbuf_t *m) noexcept nogil:
    """Give back one mbuf (not its chain)."""
    m_goes_free(m)
    if mag.n == mag.cap:
        mag_spill(pool, mag)
    mag.obj[mag.n] = m
    mag.n += 1


cdef inline void m_freem(mbufpool_t *pool, magazine_t *mag, mbuf_t *m) noexcept nogil:
    """Give back a frame: the mbuf and what is chained to it."""
    cdef mbuf_t *following
    while m != NULL:
        following = m.m_next
        m_put(pool, mag, m)
        m = following


cdef inline mbuf_t *m_from_bytes(mbufpool_t *pool, magazine_t *mag, const uint8_t *data,
                                 uint32_t nbytes) noexcept nogil:
    """A frame that holds a copy of nbytes, chained when it is long; NULL when the pool is short."""
    cdef mbuf_t *head = m_get(pool, mag)
    cdef mbuf_t *m = head
    cdef uint32_t left = nbytes, part
    if head == NULL:
        return NULL
    head.m_pktlen = nbytes
    while True:
        part = left if left < MBUF_DATA_BYTES else MBUF_DATA_BYTES
        memcpy(&m.m_data[0], data, part)
        m.m_len = part
        data += part
        left -= part
        if left == 0:
            return head
        m.m_next = m_get(pool, mag)
        m = m.m_next
        if m == NULL:
            m_freem(pool, mag, head)
            return NULL


cdef inline mbuf_t *m_dup(mbufpool_t *pool, magazine_t *mag, mbuf_t *m) noexcept nogil:
    """A copy of a frame with its offload state; NULL when the pool is short."""
    cdef mbuf_t *head = m_get(pool, mag)
    cdef mbuf_t *copy = head
    if head == NULL:
        return NULL
    head.m_pktlen = m.m_pktlen
    head.m_flags = m.m_flags
    head.m_rcvif = m.m_rcvif
    head.m_vnet = m.m_vnet
    while True:
        copy.m_len = m.m_len
        memcpy(&copy.m_data[0], &m.m_data[0], m.m_len)
        m = m.m_next
        if m == NULL:
            return head
        copy.m_next = m_get(pool, mag)
        copy = copy.m_next
        if copy == NULL:
            m_freem(pool, mag, head)
            return NULL


cdef inline void m_copydata(mbuf_t *m, uint8_t *to) noexcept nogil:
    """Copy the whole frame; to has room for m_pktlen bytes."""
    while m != NULL:
        memcpy(to, &m.m_data[0], m.m_len)
        to += m.m_len
        m = m.m_next


cdef class MbufPool:
    cdef mbufpool_t pool
    cdef size_t slab_bytes


cdef class MbufVec:
    cdef pktvec_t *vec
    cdef MbufPool owner
    cdef magazine_t *mag
    cdef readonly uint32_t cpu

cdef MbufVec vec_for(MbufPool owner, uint32_t cpu)
