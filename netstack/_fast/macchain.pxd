"""NetBSD's address table: 1024 chained heads, nodes that are unlinked, waited for and freed (paper §3.2.2).

The reference the hash table of ``mactable.pxd`` is compared with: the paper's "hash table with linked lists".  Chains
are in descending order of address, so that a search may stop early; every node is also on one list, newest first.
Readers walk a chain inside a pserialize section and take no lock; a node that was unlinked keeps its ``next``, and goes
back to the free list a grace period later.

An entry is the same word as there: address, port, age.  Nodes come from a pool made with the table: learning
does not allocate.
Source: NetBSD if_bridge.c bridge_rtable_init, bridge_rthash, bridge_rtnode_insert, bridge_rtnode_lookup.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from netstack._fast.atomics cimport (ns_load_u64, ns_store_u64, ns_cas_u64, ns_store_u32, ns_load_u32, ns_load_ptr,
                                     ns_store_ptr, RELAXED, ACQREL)
from netstack._fast.defs cimport MAC_MASK
from netstack._fast.kassert cimport ns_unlikely
from netstack._fast.lock cimport spin_enter, spin_exit
from netstack._fast.mactable cimport (mactable_t, AddressTable, RtList, pick_t, mac_lookup, mac_learn,
                                      mac_is_full, mac_port_is_full, mac_count_locked, word_of, word_port, word_age,
                                      word_kind, age_of, AGE_LOCAL, AGE_OLD, LEARN_KNOWN, LEARN_REFRESHED, LEARN_MOVED,
                                      LEARN_NEW, LEARN_FULL, LEARN_FIXED)

cdef extern from *:
    uint64_t __builtin_bswap64(uint64_t x) noexcept nogil

cdef enum:
    CHAIN_HEADS = 1024           # BRIDGE_RTHASH_SIZE

cdef struct chnode_t:
    chnode_t *next               # in its chain; kept when it is unlinked, for readers that stand on it
    uint64_t word                # address, port, age
    uint32_t seen                # second of the last refresh
    uint32_t pad
    chnode_t *list_next          # every entry, newest first; guarded by the table's lock, as is the free list
    chnode_t *list_prev

cdef struct macchain_t:
    chnode_t *head[CHAIN_HEADS]
    chnode_t *first              # of the list of all entries
    chnode_t *free               # linked by list_next
    uint32_t nfree
    uint32_t nnodes
    uint32_t key                 # seed of the hash
    uint32_t pad


cdef inline uint32_t chain_hash(uint32_t key, uint64_t mac) noexcept nogil:
    """Head of an address: three words mixed in nine steps (R. Jenkins's hash), as NetBSD's bridge does."""
    cdef uint32_t a = <uint32_t> 0x9e3779b9, b = <uint32_t> 0x9e3779b9, c = key
    b += <uint32_t> (mac >> 40 & 0xFF) << 8
    b += <uint32_t> (mac >> 32 & 0xFF)
    a += <uint32_t> (mac >> 24 & 0xFF) << 24
    a += <uint32_t> (mac >> 16 & 0xFF) << 16
    a += <uint32_t> (mac >> 8 & 0xFF) << 8
    a += <uint32_t> (mac & 0xFF)
    a = (a - b - c) ^ (c >> 13)
    b = (b - c - a) ^ (a << 8)
    c = (c - a - b) ^ (b >> 13)
    a = (a - b - c) ^ (c >> 12)
    b = (b - c - a) ^ (a << 16)
    c = (c - a - b) ^ (b >> 5)
    a = (a - b - c) ^ (c >> 3)
    b = (b - c - a) ^ (a << 10)
    c = (c - a - b) ^ (b >> 15)
    return c & (CHAIN_HEADS - 1)


cdef inline uint64_t chain_order(uint64_t mac) noexcept nogil:
    """The number by which addresses are ordered: their bytes, first one first."""
    return __builtin_bswap64(mac << 16)


cdef inline chnode_t *chain_find(macchain_t *c, uint64_t mac) noexcept nogil:
    """The node of an address, or NULL.  Inside a pserialize section, or under the lock."""
    cdef chnode_t *node = <chnode_t *> ns_load_ptr(&c.head[chain_hash(c.key, mac)], ACQREL)
    cdef uint64_t order = chain_order(mac), other
    while node != NULL:
        other = ns_load_u64(&node.word, RELAXED) & <uint64_t> MAC_MASK
        if other == mac:
            return node
        if order > chain_order(other):
            return NULL
        node = <chnode_t *> ns_load_ptr(&node.next, ACQREL)
    return NULL


cdef inline uint64_t chain_lookup(macchain_t *c, uint64_t mac) noexcept nogil:
    """The word of an address, 0 when it is unknown."""
    cdef chnode_t *node = chain_find(c, mac)
    return ns_load_u64(&node.word, RELAXED) if node != NULL else 0


cdef inline chnode_t *chain_insert_locked(macchain_t *c, uint64_t word, uint32_t second) noexcept nogil:
    """Link a node for an address that is not there; NULL when all nodes are in use, or wait for readers to leave."""
    cdef uint64_t mac = word & <uint64_t> MAC_MASK
    cdef chnode_t *node = c.free
    cdef chnode_t **at = &c.head[chain_hash(c.key, mac)]
    if node == NULL:
        return NULL
    c.free = node.list_next
    c.nfree -= 1
    ns_store_u64(&node.word, word, RELAXED)
    ns_store_u32(&node.seen, second, RELAXED)
    while at[0] != NULL and chain_order(at[0].word & <uint64_t> MAC_MASK) > chain_order(mac):
        at = &at[0].next
    ns_store_ptr(&node.next, at[0], RELAXED)
    ns_store_ptr(at, node, ACQREL)           # whoever finds the node finds it complete
    node.list_prev = NULL
    node.list_next = c.first
    if c.first != NULL:
        c.first.list_prev = node
    c.first = node
    return node


cdef inline void chain_unlink_locked(macchain_t *c, chnode_t *node) noexcept nogil:
    """bridge_rtnode_remove: nobody finds the node from now on; who stands on it can still go on to the next."""
    cdef uint64_t mac = ns_load_u64(&node.word, RELAXED) & <uint64_t> MAC_MASK
    cdef chnode_t **at = &c.head[chain_hash(c.key, mac)]
    while at[0] != node:
        at = &at[0].next
    ns_store_ptr(at, node.next, ACQREL)
    if node.list_prev != NULL:
        node.list_prev.list_next = node.list_next
    else:
        c.first = node.list_next
    if node.list_next != NULL:
        node.list_next.list_prev = node.list_prev


cdef inline void chain_destroy_locked(macchain_t *c, chnode_t *node) noexcept nogil:
    """bridge_rtnode_destroy: readers are gone."""
    node.list_next = c.free
    c.free = node
    c.nfree += 1


cdef inline int chain_enter_locked(mactable_t *t, uint64_t mac, uint8_t port, uint32_t second) noexcept nogil:
    """Add a dynamic entry, or move it here from another port; LEARN_KNOWN when somebody else was first."""
    cdef macchain_t *c = <macchain_t *> t.chain
    cdef chnode_t *node = chain_find(c, mac)
    cdef uint64_t word = word_of(mac, port, age_of(second))
    cdef uint64_t old = ns_load_u64(&node.word, RELAXED) if node != NULL else 0
    if node != NULL and word_age(old) >= AGE_LOCAL:
        return LEARN_FIXED
    if node != NULL and word_port(old) == port:
        return LEARN_KNOWN
    if (node == NULL and mac_is_full(t)) or mac_port_is_full(t, port):
        return LEARN_FULL
    if node == NULL:
        if chain_insert_locked(c, word, second) == NULL:
            return LEARN_FULL
    else:
        ns_store_u32(&node.seen, second, RELAXED)
        ns_store_u64(&node.word, word, RELAXED)
        mac_count_locked(t, old, -1)
    mac_count_locked(t, word, 1)
    return LEARN_MOVED if node != NULL else LEARN_NEW


cdef inline int chain_learn(mactable_t *t, uint64_t mac, uint8_t port, uint32_t second) noexcept nogil:
    """See a source on a port, as ``mac_learn`` does.  Inside a pserialize section."""
    cdef chnode_t *node = chain_find(<macchain_t *> t.chain, mac)
    cdef uint64_t w = ns_load_u64(&node.word, RELAXED) if node != NULL else 0
    cdef uint64_t want = word_of(mac, port, age_of(second))
    cdef int result
    if node != NULL:
        if w == want:
            return LEARN_KNOWN
        if word_age(w) >= AGE_LOCAL:
            return LEARN_FIXED
        if word_port(w) == port:
            if not ns_cas_u64(&node.word, w, want):
                return LEARN_KNOWN
            ns_store_u32(&node.seen, second, RELAXED)
            return LEARN_REFRESHED
    if (node == NULL and mac_is_full(t)) or mac_port_is_full(t, port):
        return LEARN_FULL
    spin_enter(&t.lock)
    result = chain_enter_locked(t, mac, port, second)
    spin_exit(&t.lock)
    return result


cdef inline uint64_t rt_lookup(mactable_t *t, uint64_t mac) noexcept nogil:
    """``mac_lookup`` in whichever table it is."""
    if ns_unlikely(t.chain != NULL):
        return chain_lookup(<macchain_t *> t.chain, mac)
    return mac_lookup(t, mac)


cdef inline int rt_learn(mactable_t *t, uint64_t mac, uint8_t port, uint32_t second) noexcept nogil:
    """``mac_learn`` in whichever table it is."""
    if ns_unlikely(t.chain != NULL):
        return chain_learn(t, mac, port, second)
    return mac_learn(t, mac, port, second)


cdef class ChainTable(AddressTable):
    cdef macchain_t *_chain
    cdef bint _picked(self, pick_t *pick, chnode_t *node) noexcept nogil
    cdef void _unlink_locked(self, chnode_t *node) noexcept nogil
