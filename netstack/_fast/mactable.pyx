"""The bridge's address table for the control plane: static entries, removal, flush, ageing, listing (paper §3.2.2).

Removal clears one word per entry.  No reader keeps a pointer into the table, so nothing is freed and a removed entry
needs no grace period of its own; one grace period after the words are cleared tells that no lookup made before is
still in use.

Context: control plane, any thread.  Kernels use the inlines of ``mactable.pxd``.
Limits: sized for ``maxaddr`` and 252 own addresses at a load of at most one half;
a larger ``maxaddr`` needs a new table (``copy_into``).
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from netstack._fast.atomics cimport ns_read_u32

cdef enum:
    CHUNK = 8192                 # slots walked per lock acquisition
    OLD_AFTER_S = 120            # an entry not seen this long loses its age code, before the code comes round again

RESULTS = ("known", "refreshed", "moved", "new", "full", "fixed")
DYNAMIC, STATIC, LOCAL = 1 << KIND_DYNAMIC, 1 << KIND_STATIC, 1 << KIND_LOCAL


cdef uint64_t key_of(mac) except? 0xFFFFFFFFFFFFFFFF:
    cdef const uint8_t[::1] view = bytes(mac)
    cdef uint64_t key = 0
    cdef int i
    if view.shape[0] != 6:
        raise ValueError(f"an Ethernet address has 6 bytes, not {view.shape[0]}")
    for i in range(6):
        key |= <uint64_t> view[i] << (8 * i)
    return key


cdef bytes mac_of(uint64_t key):
    return (key & MAC_MASK).to_bytes(6, "little")


cdef uint64_t mixed(uint64_t x) noexcept nogil:
    """splitmix64 step: spreads a seed over 64 bits."""
    x += <uint64_t> 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t> 0x94D049BB133111EB
    return x ^ (x >> 31)


cdef void pick_fill(pick_t *pick, port, kinds, seen_until) except *:
    """What to remove, as the walks want it."""
    pick.port = -1 if port is None else port
    pick.kinds = kinds
    pick.seen_until = -1 if seen_until is None else max(seen_until, 0)
    if seen_until is not None and seen_until < 0:
        pick.kinds = 0               # nothing was seen before time began


cdef class RtList:
    """The temporary buffer of the paper's removal: room for ``capacity`` entries, filled by ``unlink``.

    Made before the lock is taken: making it allocates, filling it does not.  ValueError for no room at all.
    """

    def __cinit__(self, capacity: int):
        if capacity < 1:
            raise ValueError(f"a list of {capacity} entries")
        self.item = <uint64_t *> malloc(<size_t> capacity * sizeof(uint64_t))
        if self.item == NULL:
            raise MemoryError()
        self.capacity = capacity

    def __dealloc__(self):
        free(self.item)

    def __len__(self):
        return self.n


cdef class AddressTable:
    """What the tables have in common: limits, counts, learning, and the copy into another table."""

    @property
    def maxaddr(self) -> int:
        return self.table.max

    @property
    def count(self) -> int:
        """Dynamic entries."""
        return ns_read_u32(&self.table.count)

    @property
    def statics(self) -> int:
        return ns_read_u32(&self.table.statics)

    @property
    def locals(self) -> int:
        return ns_read_u32(&self.table.locals)

    @property
    def entry_count(self) -> int:
        """Entries of every kind."""
        return self.count + self.statics + self.locals

    def held(self, port: int, kind: int = DYNAMIC) -> int:
        """Entries of one kind with a port number."""
        return ns_read_u32(&self.table.held[{DYNAMIC: 0, STATIC: 1, LOCAL: 2}[kind]][<uint8_t> port])

    def set_cap(self, port: int, most: int) -> None:
        """Limit the dynamic entries of a port number; 0: no limit of its own.  Those above it stay until they go."""
        ns_store_u32(&self.table.cap[<uint8_t> port], most, RELAXED)

    cdef uint64_t _word(self, uint64_t key) noexcept nogil:
        return 0

    cdef int _learn(self, uint64_t key, uint8_t port, uint32_t second) noexcept nogil:
        return LEARN_FULL

    cdef int _put(self, uint64_t key, uint8_t port, uint8_t age, uint32_t second, bint replace) noexcept nogil:
        """Enter a word of any kind, or change the one that is there where asked; 0 when that did not happen."""
        return 0

    def lookup(self, mac):
        """(port, age code) of an address, or None."""
        cdef uint64_t w = self._word(key_of(mac))
        return (word_port(w), word_age(w)) if w and not word_is_dead(self.table, w) else None

    def learn(self, mac, port: int, second: int) -> str:
        """What the kernels do with a source: one of ``RESULTS``."""
        cdef uint64_t key = key_of(mac)
        if key == 0 or key & 1 or not 0 <= port < 253:
            raise ValueError("only a unicast source is learned, on a port below 253")
        return RESULTS[self._learn(key, <uint8_t> port, <uint32_t> second)]

    cdef bint _fix(self, mac, int port, uint8_t age) except -1:
        cdef uint64_t key = key_of(mac)
        if key == 0 or key & 1 or not 0 <= port < 253:
            raise ValueError("a table entry is a unicast address on a port below 253")
        return self._put(key, <uint8_t> port, age, 0, True)

    def add_static(self, mac, port: int) -> bool:
        """Enter or turn into a static entry; False when the table is full."""
        return self._fix(mac, port, AGE_STATIC)

    def add_local(self, mac, port: int) -> bool:
        """Enter an address of this machine (a member's own); does not count against ``maxaddr``."""
        return self._fix(mac, port, AGE_LOCAL)

    def copy_into(self, AddressTable other not None) -> int:
        """Put every entry into another (new, unpublished) table as far as its limit allows; how many."""
        cdef uint32_t done = 0
        for mac, port, age, seen in self.entries():
            done += other._put(key_of(mac), port, age, seen, False)
        return done

    def __repr__(self):
        return f"<{type(self).__name__} {self.count} dynamic, {self.statics} static of {self.maxaddr}>"


cdef class MacTable(AddressTable):
    """Room for ``maxaddr`` addresses, hashed with a key made from ``seed``.

    Raises ValueError for ``maxaddr`` outside 1..2**24.
    """

    def __cinit__(self, maxaddr: int, seed: int):
        cdef uint32_t nbuckets = 64
        cdef uint32_t bits = 6
        cdef size_t at
        if not 1 <= maxaddr <= 1 << 24:
            raise ValueError(f"maxaddr must be 1..{1 << 24}, not {maxaddr}")
        while nbuckets * BUCKET_SLOTS < 2 * (maxaddr + 256):
            nbuckets <<= 1
            bits += 1
        self._memory = calloc(1, sizeof(mactable_t) + 64 + <size_t> nbuckets * BUCKET_SLOTS * 12 + 64)
        if self._memory == NULL:
            raise MemoryError()
        at = (<size_t> self._memory + 63) & ~(<size_t> 63)
        self.table = <mactable_t *> at
        at = (at + sizeof(mactable_t) + 63) & ~(<size_t> 63)
        self.table.word = <uint64_t *> at
        self.table.seen = <uint32_t *> (at + <size_t> nbuckets * BUCKET_SLOTS * 8)
        self.table.nbuckets = nbuckets
        self.table.shift = 64 - bits
        self.table.max = maxaddr
        self.seed = seed & 0xFFFFFFFFFFFFFFFF
        self.table.key1 = mixed(self.seed) | 1
        self.table.key2 = mixed(self.seed + 1) | 1

    def __dealloc__(self):
        free(self._memory)

    @property
    def nbuckets(self) -> int:
        return self.table.nbuckets

    def set_max(self, maxaddr: int) -> None:
        """Change the limit within what the table was sized for (ValueError beyond)."""
        if not 1 <= maxaddr or 2 * (maxaddr + 256) > self.table.nbuckets * BUCKET_SLOTS:
            raise ValueError(f"this table cannot hold {maxaddr} addresses")
        ns_store_u32(&self.table.max, maxaddr, RELAXED)

    cdef uint64_t _word(self, uint64_t key) noexcept nogil:
        cdef uint64_t w = mac_lookup(self.table, key)
        return 0 if w != 0 and word_is_dead(self.table, w) else w

    cdef int _learn(self, uint64_t key, uint8_t port, uint32_t second) noexcept nogil:
        return mac_learn(self.table, key, port, second)

    cdef int _put(self, uint64_t key, uint8_t port, uint8_t age, uint32_t second, bint replace) noexcept nogil:
        cdef uint64_t word = word_of(key, port, age)
        cdef uint64_t old = 0
        cdef int64_t at
        cdef int done = 0
        spin_enter(&self.table.lock)
        at = mac_slot(self.table, key)
        if at >= 0:
            old = ns_load_u64(&self.table.word[at], RELAXED)
            if word_is_dead(self.table, old):
                mac_clear_locked(self.table, at, old, True)
                at = -1
        if at >= 0 and replace:
            while not ns_cas_u64(&self.table.word[at], old, word):    # a learner may refresh it at this instant
                old = ns_load_u64(&self.table.word[at], RELAXED)
            mac_count_locked(self.table, old, -1)
            done = 1
        elif at < 0 and (age == AGE_LOCAL or not mac_is_full(self.table)):
            done = mac_put_locked(self.table, key, word, second)
        if done:
            mac_count_locked(self.table, word, 1)
        spin_exit(&self.table.lock)
        return done

    def remove(self, mac) -> bool:
        """Remove one entry of any kind; False when it is not there."""
        cdef uint64_t key = key_of(mac)
        cdef bint was_there = False
        if key != 0:
            spin_enter(&self.table.lock)
            was_there = mac_remove_locked(self.table, key)
            spin_exit(&self.table.lock)
        return was_there

    cdef uint64_t _walk(self, pick_t *pick, RtList kept, bint although_refreshed) noexcept:
        """Remove what is picked, in pieces, so that learners never wait for long; how many.

        Into a list, if there is one: then in one piece, and nothing when the list is too short (returns -1).
        """
        cdef int64_t at = 0, end, size = <int64_t> self.table.nbuckets * BUCKET_SLOTS
        cdef int64_t piece = CHUNK if kept is None else size
        cdef uint64_t *item = NULL if kept is None else kept.item
        cdef uint64_t w, removed = 0
        cdef uint32_t capacity = 0 if kept is None else kept.capacity
        with nogil:
            while at < size:
                end = at + piece if at + piece < size else size
                spin_enter(&self.table.lock)
                if item != NULL and self.table.count + self.table.statics + self.table.locals > capacity:
                    spin_exit(&self.table.lock)
                    removed = <uint64_t> -1
                    break
                while at < end:
                    w = ns_load_u64(&self.table.word[at], RELAXED)
                    if mac_picked(self.table, pick, at, w) and mac_clear_locked(self.table, at, w, although_refreshed):
                        if item != NULL:
                            item[removed] = w
                        removed += 1
                    at += 1
                spin_exit(&self.table.lock)
        return removed

    def unlink(self, RtList entries not None, port, kinds: int, seen_until=None):
        """The paper's removal, under the table's lock: unlink entries into the list; how many.

        Which: those with a port number (None: any), of ``kinds`` (DYNAMIC | STATIC | LOCAL), not seen since a second
        (None: whenever).  None, and nothing is unlinked, when the table has grown beyond the list.  Allocates nothing.
        """
        cdef pick_t pick
        cdef uint64_t n
        pick_fill(&pick, port, kinds, seen_until)
        n = self._walk(&pick, entries, seen_until is None)
        if n == <uint64_t> -1:
            return None
        entries.n = <uint32_t> n
        return n

    def unlink_macs(self, RtList entries not None, macs):
        """Like ``unlink``, for a list of addresses."""
        cdef uint64_t key, w
        cdef int64_t at
        for mac in macs:
            if entries.n == entries.capacity:
                return None
            key = key_of(mac)
            spin_enter(&self.table.lock)
            at = mac_slot(self.table, key)
            w = 0 if at < 0 else ns_load_u64(&self.table.word[at], RELAXED)
            if w != 0 and mac_remove_locked(self.table, key):
                entries.item[entries.n] = w
                entries.n += 1
            spin_exit(&self.table.lock)
        return entries.n

    def destroy(self, RtList entries not None) -> None:
        """Readers are gone: destroy what was unlinked.  A word has no memory of its own: nothing is freed."""
        entries.n = 0

    def clear(self, port, kinds: int) -> int:
        """Remove entries of one port number (None: of all), of ``kinds``, where they stand; how many."""
        cdef pick_t pick
        pick_fill(&pick, port, kinds, None)
        return self._walk(&pick, None, True)

    def flush_ports(self, port, static: bool, local: bool) -> int:
        """Remove entries of one port (None: of all): dynamic ones, and static and local ones where asked."""
        return self.clear(port, DYNAMIC | (STATIC if static else 0) | (LOCAL if local else 0))

    def expire(self, seen_until: int) -> int:
        """Remove dynamic entries last seen in this second or before, unless seen again right now; how many."""
        cdef pick_t pick
        pick_fill(&pick, None, DYNAMIC, seen_until)
        return self._walk(&pick, None, False)

    def mark_old(self, second: int):
        """Take their age code from entries not seen for 120 s; returns the second the oldest dynamic one was seen.

        Must run at least every 120 s while frames pass, because age codes come round.  None without dynamic entries.
        """
        cdef int64_t at, size = <int64_t> self.table.nbuckets * BUCKET_SLOTS
        cdef int64_t now = second, seen, oldest = -1
        cdef uint64_t w
        with nogil:
            for at in range(size):
                w = ns_load_u64(&self.table.word[at], RELAXED)
                if w == 0 or word_age(w) >= AGE_LOCAL or word_is_dead(self.table, w):
                    continue
                seen = ns_load_u32(&self.table.seen[at], RELAXED)
                if oldest < 0 or seen < oldest:
                    oldest = seen
                if now - seen >= OLD_AFTER_S and word_age(w) != AGE_OLD:
                    ns_cas_u64(&self.table.word[at], w, w & <uint64_t> 0x00FFFFFFFFFFFFFF)
        return None if oldest < 0 else oldest

    def age(self, second: int, timeout_s: int) -> int:
        """Remove dynamic entries not seen for ``timeout_s`` seconds (0: none), and mark old ones; how many went."""
        removed = self.expire(second - timeout_s) if timeout_s else 0
        self.mark_old(second)
        return removed

    def trim(self, maxaddr: int) -> int:
        """Remove dynamic entries, last seen first, until at most ``maxaddr`` entries are left; how many."""
        removed = 0
        for _seen, mac in sorted([(e[3], e[0]) for e in self.entries() if e[2] < AGE_LOCAL], reverse=True):
            if self.count + self.statics <= maxaddr:
                break
            removed += self.remove(mac)
        return removed

    def entries(self) -> list:
        """(address, port, age code, second last seen) of every entry, in slot order."""
        cdef int64_t at, size = <int64_t> self.table.nbuckets * BUCKET_SLOTS
        cdef uint64_t w
        out = []
        for at in range(size):
            w = ns_load_u64(&self.table.word[at], RELAXED)
            if w != 0 and not word_is_dead(self.table, w):
                out.append((mac_of(w), word_port(w), word_age(w), ns_read_u32(&self.table.seen[at])))
        return out

    def retire(self, numbers) -> int:
        """Flush by generation: all entries with these port numbers are as good as absent from now on; how many.

        Touches no entry.  The numbers must leave the port map next; after the grace period that follows, nobody
        learns with them any more and ``reclaim`` may be called.
        """
        cdef uint32_t removed = 0
        cdef uint8_t number
        for each in numbers:
            number = each
            spin_enter(&self.table.lock)
            removed += mac_retire_locked(self.table, number)
            spin_exit(&self.table.lock)
        return removed

    def reclaim(self) -> list:
        """Empty the slots of retired numbers; returns those numbers, which may serve again."""
        cdef int64_t at = 0, end, size = <int64_t> self.table.nbuckets * BUCKET_SLOTS
        cdef uint32_t number
        cdef uint64_t w
        numbers = [number for number in range(NUMBERS) if ns_read_u32(&self.table.dead[number])]
        if not numbers:
            return numbers
        with nogil:
            while at < size:
                end = at + CHUNK if at + CHUNK < size else size
                spin_enter(&self.table.lock)
                while at < end:
                    w = ns_load_u64(&self.table.word[at], RELAXED)
                    if w != 0 and word_is_dead(self.table, w):
                        mac_clear_locked(self.table, at, w, True)
                    at += 1
                spin_exit(&self.table.lock)
        for each in numbers:
            ns_store_u32(&self.table.dead[<uint8_t> each], 0, RELAXED)
        return numbers
