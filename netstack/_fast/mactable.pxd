"""The bridge's address table (paper §3.2.2): 64-byte buckets of eight one-word entries.

A word is address (bits 0..47) | port (48..55) | age (56..63), so a reader needs one atomic load and no lock, and a
refresh is one compare.  Each address has two buckets, by two keyed multiply-shift hashes; the seed differs per table.
Writers that add or remove hold ``lock``; a refresh is a compare-and-swap without it.

Age 1..252 is 1 + second % 252 of the last frame seen, written only when it changes; 0 means "older than the sweep";
254 and 255 mark the machine's own addresses and static entries, which learning never changes.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from netstack._fast.atomics cimport (ns_load_u64, ns_store_u64, ns_cas_u64, ns_store_u32, ns_load_u32, RELAXED, ACQREL)
from netstack._fast.defs cimport MAC_MASK
from netstack._fast.lock cimport spin_t, spin_enter, spin_exit
from netstack._fast.kassert cimport ns_prefetch, ns_unlikely, ns_likely

cdef extern from "macbucket.h" nogil:
    int ns_bucket_find(const uint64_t *bucket, uint64_t mac) noexcept

cdef enum:
    BUCKET_SLOTS = 8
    AGE_OLD = 0
    AGE_PERIOD = 252
    AGE_LOCAL = 254
    AGE_STATIC = 255
    LEARN_KNOWN = 0              # results of mactable_learn
    LEARN_REFRESHED = 1
    LEARN_MOVED = 2
    LEARN_NEW = 3
    LEARN_FULL = 4
    LEARN_FIXED = 5              # static or local: not changed

cdef struct mactable_t:
    uint64_t *word               # nbuckets * 8, line aligned
    uint32_t *seen               # second of the last refresh, per slot; cold
    uint64_t key1                # odd
    uint64_t key2                # odd
    uint32_t shift               # 64 - log2(nbuckets)
    uint32_t nbuckets
    uint32_t max                 # dynamic entries allowed
    uint32_t count               # dynamic entries; guarded by lock
    uint32_t statics             # static entries; guarded by lock
    uint32_t locals              # the machine's own addresses; guarded by lock
    spin_t lock


cdef inline uint32_t mac_bucket1(mactable_t *t, uint64_t mac) noexcept nogil:
    return <uint32_t> ((mac * t.key1) >> t.shift)


cdef inline uint32_t mac_bucket2(mactable_t *t, uint64_t mac) noexcept nogil:
    return <uint32_t> ((mac * t.key2) >> t.shift)


cdef inline int64_t mac_slot(mactable_t *t, uint64_t mac) noexcept nogil:
    """Slot of an address, or -1."""
    cdef uint32_t b = mac_bucket1(t, mac)
    cdef int i = ns_bucket_find(&t.word[b * BUCKET_SLOTS], mac)
    if ns_likely(i >= 0):
        return <int64_t> b * BUCKET_SLOTS + i
    b = mac_bucket2(t, mac)
    i = ns_bucket_find(&t.word[b * BUCKET_SLOTS], mac)
    if i >= 0:
        return <int64_t> b * BUCKET_SLOTS + i
    return -1


cdef inline uint64_t mac_lookup(mactable_t *t, uint64_t mac) noexcept nogil:
    """The word of an address, 0 when it is unknown.  One snapshot: use the word, do not look again."""
    cdef int64_t at = mac_slot(t, mac)
    cdef uint64_t w
    if at < 0:
        return 0
    w = ns_load_u64(&t.word[at], RELAXED)
    return w if (w & <uint64_t> MAC_MASK) == mac else 0


cdef inline uint8_t word_port(uint64_t w) noexcept nogil:
    return <uint8_t> (w >> 48)


cdef inline uint8_t word_age(uint64_t w) noexcept nogil:
    return <uint8_t> (w >> 56)


cdef inline uint8_t age_of(uint32_t second) noexcept nogil:
    """Age code of a second."""
    return <uint8_t> (1 + second % AGE_PERIOD)

cdef inline int mac_put_locked(mactable_t *t, uint64_t mac, uint64_t word, uint32_t second) noexcept nogil:
    """Store a word whose address is not in the table; 0 when there is no room even after moving a neighbour."""
    cdef uint64_t *w = t.word
    cdef uint32_t bucket[2]
    cdef uint32_t b, i, j, at, other, to
    cdef uint64_t neighbour
    bucket[0] = mac_bucket1(t, mac)
    bucket[1] = mac_bucket2(t, mac)
    for b in range(2):
        for i in range(BUCKET_SLOTS):
            at = bucket[b] * BUCKET_SLOTS + i
            if ns_load_u64(&w[at], RELAXED) == 0:
                t.seen[at] = second
                ns_store_u64(&w[at], word, ACQREL)
                return 1
    # Both buckets are full: move one neighbour to its other bucket.  It is stored there before its slot is taken, so
    # a reader finds it in one of the two, or at worst takes it for unknown once.
    for b in range(2):
        for i in range(BUCKET_SLOTS):
            at = bucket[b] * BUCKET_SLOTS + i
            neighbour = ns_load_u64(&w[at], RELAXED)
            other = mac_bucket1(t, neighbour & MAC_MASK)
            if other == bucket[b]:
                other = mac_bucket2(t, neighbour & MAC_MASK)
            for j in range(BUCKET_SLOTS):
                to = other * BUCKET_SLOTS + j
                if ns_load_u64(&w[to], RELAXED) == 0:
                    t.seen[to] = t.seen[at]
                    ns_store_u64(&w[to], neighbour, ACQREL)
                    t.seen[at] = second
                    ns_store_u64(&w[at], word, ACQREL)
                    return 1
    return 0


cdef inline int mac_learn_new(mactable_t *t, uint64_t mac, uint8_t port, uint32_t second) noexcept nogil:
    """Add a dynamic entry; LEARN_NEW, LEARN_FULL, or LEARN_KNOWN when somebody else was first."""
    cdef int result = LEARN_KNOWN
    if ns_load_u32(&t.count, RELAXED) + ns_load_u32(&t.statics, RELAXED) >= t.max:
        return LEARN_FULL
    spin_enter(&t.lock)
    if mac_slot(t, mac) < 0:
        # the limit again, under the lock: racing learners must not overshoot
        if t.count + t.statics >= t.max:
            result = LEARN_FULL
        elif mac_put_locked(t, mac, mac | <uint64_t> port << 48 | <uint64_t> age_of(second) << 56, second):
            ns_store_u32(&t.count, t.count + 1, RELAXED)
            result = LEARN_NEW
        else:
            result = LEARN_FULL
    spin_exit(&t.lock)
    return result


cdef inline int mac_learn(mactable_t *t, uint64_t mac, uint8_t port, uint32_t second) noexcept nogil:
    """See a source on a port: refresh, move or add.  A refresh is one compare-and-swap and takes no lock."""
    cdef int64_t at = mac_slot(t, mac)
    cdef uint64_t w, want
    if at < 0:
        return mac_learn_new(t, mac, port, second)
    w = ns_load_u64(&t.word[at], RELAXED)
    want = mac | <uint64_t> port << 48 | <uint64_t> age_of(second) << 56
    if w == want or (w & MAC_MASK) != mac:
        return LEARN_KNOWN           # nothing to write, or the slot changed hands this instant
    if word_age(w) >= AGE_LOCAL:
        return LEARN_FIXED
    if not ns_cas_u64(&t.word[at], w, want):
        return LEARN_KNOWN
    ns_store_u32(&t.seen[at], second, RELAXED)
    return LEARN_MOVED if word_port(w) != port else LEARN_REFRESHED


cdef uint64_t key_of(mac) except? 0xFFFFFFFFFFFFFFFF
cdef bytes mac_of(uint64_t key)

cdef class MacTable:
    cdef mactable_t *table
    cdef void *_memory
    cdef readonly uint64_t seed
    cdef bint _fix(self, mac, int port, uint8_t age) except -1
    cdef void _uncount(self, uint64_t word) noexcept nogil
    cdef void _clear(self, int64_t at) noexcept nogil
