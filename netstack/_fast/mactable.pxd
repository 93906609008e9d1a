"""The bridge's address table (paper §3.2.2): 64-byte buckets of eight one-word entries.

A word is address (bits 0..47) | port (48..55) | age (56..63), so a reader needs one atomic load and no lock, and a
refresh is one compare.  Each address has two buckets, by two keyed multiply-shift hashes; the seed differs per table.
Writers that add, move or remove hold ``lock``; a refresh is a compare-and-swap without it.

Age 1..252 is 1 + second % 252 of the last frame seen, written only when it changes; 0 means "older than the sweep";
254 and 255 mark the machine's own addresses and static entries, which learning never changes.

Flush by generation: the port of a word is a number that the port map translates, and a member may have one number for
what it learns and another for what is fixed.  A flush gives it a new one and marks the old ``dead``: its words are
then as good as absent, whatever else happens, without having been touched.  Their slots are taken again by learning, or
emptied by ``reclaim``, after which the number may serve again.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from netstack._fast.atomics cimport (ns_load_u64, ns_store_u64, ns_cas_u64, ns_store_u32, ns_load_u32, ns_own_u32,
                                     RELAXED, ACQREL)
from netstack._fast.defs cimport MAC_MASK
from netstack._fast.lock cimport spin_t, spin_enter, spin_exit
from netstack._fast.kassert cimport ns_prefetch, ns_unlikely, ns_likely
from netstack._fast.mutants cimport ns_mutant, MUT_MAC_NO_RECHECK, MUT_MAC_REFRESH_BY_STORE, MUT_MAC_TWO_HALVES

cdef extern from "macbucket.h" nogil:
    int ns_bucket_find(const uint64_t *bucket, uint64_t mac) noexcept

cdef enum:
    BUCKET_SLOTS = 8
    NUMBERS = 256                # port numbers a word can hold
    AGE_OLD = 0
    AGE_PERIOD = 252
    AGE_LOCAL = 254
    AGE_STATIC = 255
    LEARN_KNOWN = 0              # results of mac_learn
    LEARN_REFRESHED = 1
    LEARN_MOVED = 2
    LEARN_NEW = 3
    LEARN_FULL = 4               # no room in the table or on the port: not learned, the frame goes on
    LEARN_FIXED = 5              # static or local: not changed
    KIND_DYNAMIC = 0             # kinds of entry: index into ``held``, bit in ``pick_t.kinds``
    KIND_STATIC = 1
    KIND_LOCAL = 2
    KINDS = 3

cdef struct mactable_t:
    uint64_t *word               # nbuckets * 8, line aligned; NULL in the chained table
    uint32_t *seen               # second of the last refresh, per slot; cold
    uint64_t key1                # odd
    uint64_t key2                # odd
    uint32_t shift               # 64 - log2(nbuckets)
    uint32_t nbuckets
    uint32_t max                 # dynamic and static entries allowed
    uint32_t count               # dynamic entries; guarded by lock
    uint32_t statics             # static entries; guarded by lock
    uint32_t locals              # the machine's own addresses; guarded by lock
    void *chain                  # macchain_t of the chained table (macchain.pxd), NULL here
    spin_t lock
    uint32_t held[KINDS][NUMBERS]    # live entries by kind and port number; guarded by lock
    uint32_t cap[NUMBERS]        # dynamic entries a port number may have, 0: no limit of its own
    uint32_t dead[NUMBERS]       # 1: flushed; entries with this number are as good as absent

cdef struct pick_t:              # which entries to remove
    int port                     # number, -1: any
    uint32_t kinds               # bits 1 << KIND_*
    int64_t seen_until           # last seen in this second or before, -1: whenever


cdef inline uint32_t mac_bucket1(mactable_t *t, uint64_t mac) noexcept nogil:
    return <uint32_t> ((mac * t.key1) >> t.shift)


cdef inline uint32_t mac_bucket2(mactable_t *t, uint64_t mac) noexcept nogil:
    return <uint32_t> ((mac * t.key2) >> t.shift)


cdef inline int64_t mac_slot(mactable_t *t, uint64_t mac) noexcept nogil:
    """Slot of an address, or -1.  The word may have a dead port number."""
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
    """The word of an address, 0 when it is unknown.  One snapshot: use the word, do not look again.

    The port map tells what its number means; a dead number means nothing there.
    """
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


cdef inline uint32_t word_kind(uint64_t w) noexcept nogil:
    if word_age(w) < AGE_LOCAL:
        return KIND_DYNAMIC
    return KIND_STATIC if word_age(w) == AGE_STATIC else KIND_LOCAL


cdef inline uint64_t word_of(uint64_t mac, uint8_t port, uint8_t age) noexcept nogil:
    return mac | <uint64_t> port << 48 | <uint64_t> age << 56


cdef inline uint8_t age_of(uint32_t second) noexcept nogil:
    """Age code of a second."""
    return <uint8_t> (1 + second % AGE_PERIOD)


cdef inline bint word_is_dead(mactable_t *t, uint64_t w) noexcept nogil:
    return ns_load_u32(&t.dead[word_port(w)], RELAXED) != 0


cdef inline void mac_count_locked(mactable_t *t, uint64_t w, int more) noexcept nogil:
    """An entry comes (1) or goes (-1).  Stored atomically: learners look without the lock."""
    cdef uint32_t kind = word_kind(w)
    cdef uint32_t *total = &t.count
    if kind == KIND_STATIC:
        total = &t.statics
    elif kind == KIND_LOCAL:
        total = &t.locals
    ns_store_u32(total, ns_own_u32(total) + more, RELAXED)
    ns_store_u32(&t.held[kind][word_port(w)], ns_own_u32(&t.held[kind][word_port(w)]) + more, RELAXED)


cdef inline bint mac_is_full(mactable_t *t) noexcept nogil:
    return ns_load_u32(&t.count, RELAXED) + ns_load_u32(&t.statics, RELAXED) >= ns_load_u32(&t.max, RELAXED)


cdef inline bint mac_port_is_full(mactable_t *t, uint8_t port) noexcept nogil:
    cdef uint32_t cap = ns_load_u32(&t.cap[port], RELAXED)
    return cap != 0 and ns_load_u32(&t.held[KIND_DYNAMIC][port], RELAXED) >= cap


cdef inline void mac_store(uint64_t *slot, uint64_t word) noexcept nogil:
    """Write a word at once: a reader sees the old one or the new one."""
    if ns_mutant(MUT_MAC_TWO_HALVES):
        ns_store_u32(<uint32_t *> slot, <uint32_t> word, RELAXED)
        ns_store_u32(<uint32_t *> slot + 1, <uint32_t> (word >> 32), ACQREL)
        return
    ns_store_u64(slot, word, ACQREL)


cdef inline int mac_put_locked(mactable_t *t, uint64_t mac, uint64_t word, uint32_t second) noexcept nogil:
    """Store a word whose address is not in the table; 0 when there is no room even after moving a neighbour."""
    cdef uint64_t *w = t.word
    cdef uint32_t bucket[2]
    cdef uint32_t b, i, j, at, other, to
    cdef uint64_t neighbour, found
    bucket[0] = mac_bucket1(t, mac)
    bucket[1] = mac_bucket2(t, mac)
    for b in range(2):
        for i in range(BUCKET_SLOTS):
            at = bucket[b] * BUCKET_SLOTS + i
            found = ns_load_u64(&w[at], RELAXED)
            if found == 0 or word_is_dead(t, found):
                ns_store_u32(&t.seen[at], second, RELAXED)
                mac_store(&w[at], word)
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
                found = ns_load_u64(&w[to], RELAXED)
                if found == 0 or word_is_dead(t, found):
                    ns_store_u32(&t.seen[to], ns_load_u32(&t.seen[at], RELAXED), RELAXED)
                    ns_store_u64(&w[to], neighbour, ACQREL)
                    ns_store_u32(&t.seen[at], second, RELAXED)
                    ns_store_u64(&w[at], word, ACQREL)
                    return 1
    return 0


cdef inline int mac_enter_locked(mactable_t *t, uint64_t mac, uint8_t port, uint32_t second) noexcept nogil:
    """Add a dynamic entry, or move it here from another port; LEARN_KNOWN when somebody else was first."""
    cdef int64_t at = mac_slot(t, mac)
    cdef uint64_t word = word_of(mac, port, age_of(second))
    cdef uint64_t old = 0
    cdef bint is_there = False
    if ns_unlikely(t.dead[port] != 0):
        return LEARN_KNOWN           # seen through a port map that is on its way out: forget it
    if at >= 0:
        old = ns_load_u64(&t.word[at], RELAXED)
        is_there = not word_is_dead(t, old)
    if is_there:
        if word_age(old) >= AGE_LOCAL:
            return LEARN_FIXED
        if word_port(old) == port:
            return LEARN_KNOWN
    elif mac_is_full(t):
        # the limit again, under the lock: racing learners must not overshoot
        return LEARN_FULL
    if mac_port_is_full(t, port):
        return LEARN_FULL
    if at < 0:
        if not mac_put_locked(t, mac, word, second):
            return LEARN_FULL
    else:
        # a refresh of the old word may be under way: it loses, or is overwritten
        ns_store_u32(&t.seen[at], second, RELAXED)
        mac_store(&t.word[at], word)
    if is_there:
        mac_count_locked(t, old, -1)
    mac_count_locked(t, word, 1)
    return LEARN_MOVED if is_there else LEARN_NEW


cdef inline int mac_learn_slow(mactable_t *t, uint64_t mac, uint8_t port, uint32_t second,
                               bint is_there) noexcept nogil:
    """A source that is new on its port.  A full table costs no lock: a flood of random sources stalls nobody."""
    cdef int result
    if (not is_there and mac_is_full(t)) or mac_port_is_full(t, port):
        return LEARN_FULL
    spin_enter(&t.lock)
    if ns_mutant(MUT_MAC_NO_RECHECK) and not is_there:
        result = mac_put_locked(t, mac, word_of(mac, port, age_of(second)), second)
        mac_count_locked(t, word_of(mac, port, age_of(second)), 1)
    else:
        result = mac_enter_locked(t, mac, port, second)
    spin_exit(&t.lock)
    return result


cdef inline int mac_learn(mactable_t *t, uint64_t mac, uint8_t port, uint32_t second) noexcept nogil:
    """See a source on a port: refresh, move or add.  A refresh is one compare-and-swap and takes no lock."""
    cdef int64_t at = mac_slot(t, mac)
    cdef uint64_t w, want
    if at < 0:
        return mac_learn_slow(t, mac, port, second, False)
    w = ns_load_u64(&t.word[at], RELAXED)
    want = word_of(mac, port, age_of(second))
    if w == want or (w & MAC_MASK) != mac:
        return LEARN_KNOWN           # nothing to write, or the slot changed hands this instant
    if word_is_dead(t, w):
        return mac_learn_slow(t, mac, port, second, False)
    if word_age(w) >= AGE_LOCAL:
        return LEARN_FIXED
    if word_port(w) != port:
        return mac_learn_slow(t, mac, port, second, True)
    if ns_mutant(MUT_MAC_REFRESH_BY_STORE):
        ns_store_u64(&t.word[at], want, ACQREL)
    elif not ns_cas_u64(&t.word[at], w, want):
        return LEARN_KNOWN
    ns_store_u32(&t.seen[at], second, RELAXED)
    return LEARN_REFRESHED


cdef inline bint mac_picked(mactable_t *t, pick_t *pick, int64_t at, uint64_t w) noexcept nogil:
    """Whether the entry in a slot is one to be removed."""
    if w == 0 or pick.kinds >> word_kind(w) & 1 == 0 or (pick.port >= 0 and word_port(w) != pick.port):
        return False
    if pick.seen_until >= 0 and <int64_t> ns_load_u32(&t.seen[at], RELAXED) > pick.seen_until:
        return False
    return not word_is_dead(t, w)


cdef inline bint mac_clear_locked(mactable_t *t, int64_t at, uint64_t w, bint although_refreshed) noexcept nogil:
    """Empty a slot that holds a word; false when a learner refreshed it this instant and that counts."""
    while not ns_cas_u64(&t.word[at], w, 0):
        if not although_refreshed:
            return False
        w = ns_load_u64(&t.word[at], RELAXED)
    if not word_is_dead(t, w):
        mac_count_locked(t, w, -1)
    return True


cdef inline uint32_t mac_retire_locked(mactable_t *t, uint8_t number) noexcept nogil:
    """Void every entry of a port number at once; how many that was.  Their slots are taken back later."""
    cdef uint32_t kind, n, removed = 0
    for kind in range(KINDS):
        n = ns_own_u32(&t.held[kind][number])
        removed += n
        ns_store_u32(&t.held[kind][number], 0, RELAXED)
        if kind == KIND_DYNAMIC:
            ns_store_u32(&t.count, ns_own_u32(&t.count) - n, RELAXED)
        elif kind == KIND_STATIC:
            ns_store_u32(&t.statics, ns_own_u32(&t.statics) - n, RELAXED)
        else:
            ns_store_u32(&t.locals, ns_own_u32(&t.locals) - n, RELAXED)
    ns_store_u32(&t.dead[number], 1, RELAXED)
    ns_store_u32(&t.cap[number], 0, RELAXED)
    return removed


cdef inline bint mac_remove_locked(mactable_t *t, uint64_t mac) noexcept nogil:
    """Remove the entry of an address; false when it is not there."""
    cdef int64_t at = mac_slot(t, mac)
    cdef uint64_t w
    cdef bint was_there
    if at < 0:
        return False
    w = ns_load_u64(&t.word[at], RELAXED)
    was_there = not word_is_dead(t, w)
    mac_clear_locked(t, at, w, True)
    return was_there


cdef uint64_t key_of(mac) except? 0xFFFFFFFFFFFFFFFF
cdef bytes mac_of(uint64_t key)
cdef uint64_t mixed(uint64_t x) noexcept nogil
cdef void pick_fill(pick_t *pick, port, kinds, seen_until) except *

cdef class RtList:               # the paper's temporary buffer: what was unlinked, until readers are gone
    cdef uint64_t *item          # words, or nodes of the chained table
    cdef readonly uint32_t capacity
    cdef readonly uint32_t n

cdef class AddressTable:         # what both tables have in common
    cdef mactable_t *table
    cdef void *_memory
    cdef readonly uint64_t seed
    cdef uint64_t _word(self, uint64_t key) noexcept nogil
    cdef int _learn(self, uint64_t key, uint8_t port, uint32_t second) noexcept nogil
    cdef int _put(self, uint64_t key, uint8_t port, uint8_t age, uint32_t second, bint replace) noexcept nogil
    cdef bint _fix(self, mac, int port, uint8_t age) except -1

cdef class MacTable(AddressTable):
    cdef uint64_t _walk(self, pick_t *pick, RtList kept, bint although_refreshed) noexcept
