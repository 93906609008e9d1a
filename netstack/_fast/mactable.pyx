"""The bridge's address table for the control plane: static entries, removal, flush, ageing, listing (paper §3.2.2).

Removal clears one word per entry.  No reader keeps a pointer into the table, so nothing is freed and a removed
entry needs
no grace period of its own; one grace period after the words are cleared tells that no lookup made before is still
in use.

Context: control plane, any thread.  Kernels use the inlines of ``mactable.pxd``.
Limits: sized for ``maxaddr`` and 252 own addresses at a load of at most one half;
a larger ``maxaddr`` needs a new table (``copy_into``).
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    CHUNK = 8192                 # slots walked per lock acquisition
    OLD_AFTER_S = 120            # an entry not seen this long loses its age code, before the code comes round again


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

RESULTS = ("known", "refreshed", "moved", "new", "full", "fixed")


cdef class MacTable:
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
    def maxaddr(self) -> int:
        return self.table.max

    @property
    def count(self) -> int:
        """Dynamic entries."""
        return self.table.count

    @property
    def statics(self) -> int:
        return self.table.statics

    @property
    def locals(self) -> int:
        return self.table.locals

    @property
    def nbuckets(self) -> int:
        return self.table.nbuckets

    def set_max(self, maxaddr: int) -> None:
        """Change the limit within what the table was sized for (ValueError beyond)."""
        if not 1 <= maxaddr or 2 * (maxaddr + 256) > self.table.nbuckets * BUCKET_SLOTS:
            raise ValueError(f"this table cannot hold {maxaddr} addresses")
        self.table.max = maxaddr

    def lookup(self, mac):
        """(port, age code) of an address, or None."""
        cdef uint64_t w = mac_lookup(self.table, key_of(mac))
        return (word_port(w), word_age(w)) if w else None

    def learn(self, mac, port: int, second: int) -> str:
        """What the kernels do with a source: one of ``RESULTS``."""
        cdef uint64_t key = key_of(mac)
        if key == 0 or key & 1 or not 0 <= port < 253:
            raise ValueError("only a unicast source is learned, on a port below 253")
        return RESULTS[mac_learn(self.table, key, <uint8_t> port, <uint32_t> second)]

    cdef bint _fix(self, mac, int port, uint8_t age) except -1:
        cdef uint64_t key = key_of(mac)
        cdef uint64_t word = key | <uint64_t> port << 48 | <uint64_t> age << 56
        cdef uint64_t old = 0
        cdef int64_t at
        cdef bint done = True
        if key == 0 or key & 1 or not 0 <= port < 253:
            raise ValueError("a table entry is a unicast address on a port below 253")
        spin_enter(&self.table.lock)
        at = mac_slot(self.table, key)
        if at >= 0:
            # a learner may refresh a dynamic word at this instant
            while True:
                old = ns_load_u64(&self.table.word[at], RELAXED)
                if ns_cas_u64(&self.table.word[at], old, word):
                    break
            self._uncount(old)
        elif age == AGE_STATIC and self.table.count + self.table.statics >= self.table.max:
            done = False
        else:
            done = mac_put_locked(self.table, key, word, 0)
        if done:
            if age == AGE_LOCAL:
                self.table.locals += 1
            else:
                self.table.statics += 1
        spin_exit(&self.table.lock)
        return done

    cdef void _uncount(self, uint64_t word) noexcept nogil:
        if word_age(word) == AGE_LOCAL:
            self.table.locals -= 1
        elif word_age(word) == AGE_STATIC:
            self.table.statics -= 1
        else:
            ns_store_u32(&self.table.count, self.table.count - 1, RELAXED)

    def add_static(self, mac, port: int) -> bool:
        """Enter or turn into a static entry; False when the table is full."""
        return self._fix(mac, port, AGE_STATIC)

    def add_local(self, mac, port: int) -> bool:
        """Enter an address of this machine (a member's own); does not count against ``maxaddr``."""
        return self._fix(mac, port, AGE_LOCAL)

    def remove(self, mac) -> bool:
        """Remove one entry of any kind; False when it is not there."""
        cdef uint64_t key = key_of(mac)
        cdef int64_t at
        if key == 0:
            return False
        spin_enter(&self.table.lock)
        at = mac_slot(self.table, key)
        if at >= 0:
            self._clear(at)
        spin_exit(&self.table.lock)
        return at >= 0

    cdef void _clear(self, int64_t at) noexcept nogil:
        cdef uint64_t w
        while True:
            w = ns_load_u64(&self.table.word[at], RELAXED)
            if ns_cas_u64(&self.table.word[at], w, 0):
                break
        self._uncount(w)

    def flush_ports(self, port, static: bool, local: bool) -> int:
        """Remove entries of one port (None: of all): dynamic ones, and static and local ones where asked."""
        cdef int wanted = -1 if port is None else port
        cdef bint with_static = static, with_local = local
        cdef int64_t at, end, size = <int64_t> self.table.nbuckets * BUCKET_SLOTS
        cdef uint64_t w
        cdef uint64_t removed = 0
        with nogil:
            at = 0
            while at < size:
                end = at + CHUNK if at + CHUNK < size else size
                spin_enter(&self.table.lock)
                while at < end:
                    w = ns_load_u64(&self.table.word[at], RELAXED)
                    if w != 0 and (wanted < 0 or word_port(w) == wanted) \
                            and (word_age(w) < AGE_LOCAL or (word_age(w) == AGE_STATIC and with_static)
                                 or (word_age(w) == AGE_LOCAL and with_local)):
                        self._clear(at)
                        removed += 1
                    at += 1
                spin_exit(&self.table.lock)
        return removed

    def age(self, second: int, timeout_s: int) -> int:
        """Remove dynamic entries not seen for ``timeout_s`` seconds (0: none); how many.

        Must run at least every 120 s while frames pass: it also marks old entries, because age codes come round.
        """
        cdef int64_t at, end, size = <int64_t> self.table.nbuckets * BUCKET_SLOTS
        cdef uint64_t w
        cdef uint64_t removed = 0
        cdef int64_t now = second, timeout = timeout_s, idle
        with nogil:
            at = 0
            while at < size:
                end = at + CHUNK if at + CHUNK < size else size
                spin_enter(&self.table.lock)
                while at < end:
                    w = ns_load_u64(&self.table.word[at], RELAXED)
                    if w != 0 and word_age(w) < AGE_LOCAL:
                        idle = now - <int64_t> ns_load_u32(&self.table.seen[at], RELAXED)
                        if timeout > 0 and idle >= timeout:
                            if ns_cas_u64(&self.table.word[at], w, 0):   # fails when refreshed this instant: it stays
                                self._uncount(w)
                                removed += 1
                        elif idle >= OLD_AFTER_S and word_age(w) != AGE_OLD:
                            ns_cas_u64(&self.table.word[at], w, w & <uint64_t> 0x00FFFFFFFFFFFFFF)
                    at += 1
                spin_exit(&self.table.lock)
        return removed

    def trim(self, maxaddr: int) -> int:
        """Remove dynamic entries, last seen first, until at most ``maxaddr`` entries are left; how many."""
        removed = 0
        for _seen, mac in sorted([(e[3], e[0]) for e in self.entries() if e[2] < AGE_LOCAL], reverse=True):
            if self.table.count + self.table.statics <= maxaddr:
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
            if w != 0:
                out.append((mac_of(w), word_port(w), word_age(w), self.table.seen[at]))
        return out

    def copy_into(self, MacTable other not None) -> int:
        """Put every entry into another (new, unpublished) table as far as its limit allows; how many."""
        cdef uint64_t key
        cdef uint32_t done = 0
        cdef int dynamic
        for mac, port, age, seen in self.entries():
            key = key_of(mac)
            dynamic = age < AGE_LOCAL
            if age != AGE_LOCAL and other.table.count + other.table.statics >= other.table.max:
                continue
            spin_enter(&other.table.lock)
            if mac_slot(other.table, key) < 0 and mac_put_locked(
                    other.table, key, key | <uint64_t> port << 48 | <uint64_t> age << 56, seen):
                done += 1
                if dynamic:
                    other.table.count += 1
                elif age == AGE_LOCAL:
                    other.table.locals += 1
                else:
                    other.table.statics += 1
            spin_exit(&other.table.lock)
        return done

    def __repr__(self):
        return f"<MacTable {self.count} dynamic, {self.statics} static of {self.maxaddr}>"
