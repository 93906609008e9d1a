"""NetBSD's address table for the control plane (paper §3.2.2); the twin of ``mactable.pyx``.

Every removal is the paper's: unlink into a list, wait for readers, destroy.  The first and the last step are here;
between them the caller waits for a grace period.

Context: control plane, any thread; ``learn`` inside a read section, or where no removal can be under way.
Limits:  ``maxaddr`` and 252 own addresses, and as many nodes again that wait for readers to leave.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from netstack._fast.atomics cimport ns_read_u32
from netstack._fast.mactable cimport key_of, mac_of, mixed, pick_fill

cdef enum:
    OLD_AFTER_S = 120            # as in mactable.pyx


cdef class ChainTable(AddressTable):
    """Room for ``maxaddr`` addresses on 1024 chains, hashed with a key made from ``seed``.

    Raises ValueError for ``maxaddr`` outside 1..2**24.
    """

    def __cinit__(self, maxaddr: int, seed: int):
        cdef uint32_t i, nnodes
        cdef size_t at
        cdef chnode_t *nodes
        if not 1 <= maxaddr <= 1 << 24:
            raise ValueError(f"maxaddr must be 1..{1 << 24}, not {maxaddr}")
        nnodes = 2 * (maxaddr + 256)
        self._memory = calloc(1, sizeof(mactable_t) + sizeof(macchain_t) + 128 + <size_t> nnodes * sizeof(chnode_t))
        if self._memory == NULL:
            raise MemoryError()
        at = (<size_t> self._memory + 63) & ~(<size_t> 63)
        self.table = <mactable_t *> at
        at = (at + sizeof(mactable_t) + 63) & ~(<size_t> 63)
        self._chain = <macchain_t *> at
        nodes = <chnode_t *> (at + sizeof(macchain_t))
        for i in range(nnodes):
            nodes[i].list_next = &nodes[i + 1] if i + 1 < nnodes else NULL
        self._chain.free = nodes
        self._chain.nfree = nnodes
        self._chain.nnodes = nnodes
        self.seed = seed & 0xFFFFFFFFFFFFFFFF
        self._chain.key = <uint32_t> mixed(self.seed)
        self.table.max = maxaddr
        self.table.chain = self._chain

    def __dealloc__(self):
        free(self._memory)

    @property
    def free_nodes(self) -> int:
        """Nodes in no chain and in no list; all but ``entry_count`` when nobody is at work."""
        return ns_read_u32(&self._chain.nfree)

    @property
    def nodes(self) -> int:
        return self._chain.nnodes

    def set_max(self, maxaddr: int) -> None:
        """Change the limit within what the table was sized for (ValueError beyond)."""
        if not 1 <= maxaddr or 2 * (maxaddr + 256) > self._chain.nnodes:
            raise ValueError(f"this table cannot hold {maxaddr} addresses")
        ns_store_u32(&self.table.max, maxaddr, RELAXED)

    cdef uint64_t _word(self, uint64_t key) noexcept nogil:
        cdef uint64_t w
        spin_enter(&self.table.lock)         # the caller may be outside a section: no node may go meanwhile
        w = chain_lookup(self._chain, key)
        spin_exit(&self.table.lock)
        return w

    cdef int _learn(self, uint64_t key, uint8_t port, uint32_t second) noexcept nogil:
        return chain_learn(self.table, key, port, second)

    cdef int _put(self, uint64_t key, uint8_t port, uint8_t age, uint32_t second, bint replace) noexcept nogil:
        cdef uint64_t word = word_of(key, port, age)
        cdef uint64_t old = 0
        cdef chnode_t *node
        cdef int done = 0
        spin_enter(&self.table.lock)
        node = chain_find(self._chain, key)
        if node != NULL and replace:
            old = ns_load_u64(&node.word, RELAXED)
            while not ns_cas_u64(&node.word, old, word):     # a learner may refresh it at this instant
                old = ns_load_u64(&node.word, RELAXED)
            mac_count_locked(self.table, old, -1)
            done = 1
        elif node == NULL and (age == AGE_LOCAL or not mac_is_full(self.table)):
            done = chain_insert_locked(self._chain, word, second) != NULL
        if done:
            mac_count_locked(self.table, word, 1)
        spin_exit(&self.table.lock)
        return done

    cdef bint _picked(self, pick_t *pick, chnode_t *node) noexcept nogil:
        cdef uint64_t w = ns_load_u64(&node.word, RELAXED)
        if pick.kinds >> word_kind(w) & 1 == 0 or (pick.port >= 0 and word_port(w) != pick.port):
            return False
        return pick.seen_until < 0 or <int64_t> ns_load_u32(&node.seen, RELAXED) <= pick.seen_until

    cdef void _unlink_locked(self, chnode_t *node) noexcept nogil:
        chain_unlink_locked(self._chain, node)
        mac_count_locked(self.table, ns_load_u64(&node.word, RELAXED), -1)

    def unlink(self, RtList entries not None, port, kinds: int, seen_until=None):
        """The paper's removal, under the table's lock: unlink entries into the list; how many.

        Which: those with a port number (None: any), of ``kinds`` (DYNAMIC | STATIC | LOCAL), not seen since a second
        (None: whenever).  None, and nothing is unlinked, when the table has grown beyond the list.  Allocates nothing.
        """
        cdef pick_t pick
        cdef chnode_t *node
        cdef chnode_t *next
        cdef mactable_t *t = self.table
        cdef bint has_grown
        pick_fill(&pick, port, kinds, seen_until)
        with nogil:
            spin_enter(&t.lock)
            has_grown = t.count + t.statics + t.locals > entries.capacity
            node = NULL if has_grown else self._chain.first
            while node != NULL:
                next = node.list_next
                if self._picked(&pick, node):
                    self._unlink_locked(node)
                    entries.item[entries.n] = <uint64_t> <size_t> node
                    entries.n += 1
                node = next
            spin_exit(&t.lock)
        return None if has_grown else entries.n

    def unlink_macs(self, RtList entries not None, macs):
        """Like ``unlink``, for a list of addresses."""
        cdef chnode_t *node
        cdef uint64_t key
        for mac in macs:
            if entries.n == entries.capacity:
                return None
            key = key_of(mac)
            spin_enter(&self.table.lock)
            node = chain_find(self._chain, key)
            if node != NULL:
                self._unlink_locked(node)
                entries.item[entries.n] = <uint64_t> <size_t> node
                entries.n += 1
            spin_exit(&self.table.lock)
        return entries.n

    def destroy(self, RtList entries not None) -> None:
        """Readers are gone: the nodes may serve again."""
        cdef uint32_t i
        with nogil:
            spin_enter(&self.table.lock)
            for i in range(entries.n):
                chain_destroy_locked(self._chain, <chnode_t *> <size_t> entries.item[i])
            spin_exit(&self.table.lock)
        entries.n = 0

    def mark_old(self, second: int):
        """Take their age code from entries not seen for 120 s; returns the second the oldest dynamic one was seen."""
        cdef chnode_t *node
        cdef int64_t now = second, seen, oldest = -1
        cdef uint64_t w
        with nogil:
            spin_enter(&self.table.lock)
            node = self._chain.first
            while node != NULL:
                w = ns_load_u64(&node.word, RELAXED)
                if word_age(w) < AGE_LOCAL:
                    seen = ns_load_u32(&node.seen, RELAXED)
                    if oldest < 0 or seen < oldest:
                        oldest = seen
                    if now - seen >= OLD_AFTER_S and word_age(w) != AGE_OLD:
                        ns_cas_u64(&node.word, w, w & <uint64_t> 0x00FFFFFFFFFFFFFF)
                node = node.list_next
            spin_exit(&self.table.lock)
        return None if oldest < 0 else oldest

    def entries(self) -> list:
        """(address, port, age code, second last seen) of every entry, newest first."""
        cdef chnode_t *node
        cdef uint32_t n = 0, i, room = self._chain.nnodes
        cdef RtList words = RtList(room)
        cdef RtList seen = RtList(room)
        with nogil:
            spin_enter(&self.table.lock)
            node = self._chain.first
            while node != NULL:
                words.item[n] = ns_load_u64(&node.word, RELAXED)
                seen.item[n] = ns_load_u32(&node.seen, RELAXED)
                n += 1
                node = node.list_next
            spin_exit(&self.table.lock)
        return [(mac_of(words.item[i]), word_port(words.item[i]), word_age(words.item[i]), seen.item[i])
                for i in range(n)]

    def chain(self, head: int) -> list:
        """Addresses on one chain, in its order."""
        cdef chnode_t *node
        cdef uint32_t n = 0, i
        cdef RtList words = RtList(self._chain.nnodes)
        if not 0 <= head < CHAIN_HEADS:
            raise IndexError(f"no head {head}")
        spin_enter(&self.table.lock)
        node = self._chain.head[head]
        while node != NULL:
            words.item[n] = node.word
            n += 1
            node = node.next
        spin_exit(&self.table.lock)
        return [mac_of(words.item[i]) for i in range(n)]


def rthash(mac, key: int) -> int:
    """Head of an address under a 32-bit key."""
    return chain_hash(<uint32_t> key, key_of(mac))
