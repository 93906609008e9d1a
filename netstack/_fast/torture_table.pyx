"""Torture of the bridge's address table: lookups without a lock against learning, moves and removal (paper §3.2.2).

The addresses are chosen so that they share a few buckets: entries are pushed to their other bucket all the time.  See
``torture.pyx`` for what a torture is, what it counts and what it cannot show.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from netstack._fast.atomics cimport ns_load_u64, RELAXED
from netstack._fast.lines cimport own_lines
from netstack._fast.lock cimport spin_enter, spin_exit
from netstack._fast.mactable cimport (MacTable, mactable_t, mac_bucket1, mac_bucket2, mac_enter_locked, mac_learn,
                                      mac_lookup, mac_remove_locked, mac_slot, word_port, LEARN_MOVED)
from netstack._fast.torture cimport Torture, member_t, chance, linger, goes_on

cdef enum:
    STATIONS = 32                # and STATICS fixed ones, in BUCKETS buckets of eight
    STATICS = 4
    BUCKETS = 5
    SECONDS = 250                # ages change, so that refreshes happen
    TABLE_LEARN_UNLOCKED = 1     # in the order of MUTANTS
    TABLE_LOOK_TWICE = 2

cdef struct stations_t:
    mactable_t *table
    uint64_t mac[STATIONS + STATICS]


cdef inline uint8_t port_of(uint32_t station) noexcept nogil:
    """The lower of the two ports a station is ever on."""
    return <uint8_t> (2 + 2 * station)


cdef inline uint64_t table_lookup(member_t *me, mactable_t *t, uint64_t mac) noexcept nogil:
    cdef long long at
    if me.party.mutant != TABLE_LOOK_TWICE:
        return mac_lookup(t, mac)
    at = mac_slot(t, mac)
    if at < 0:
        return 0
    linger(chance(me))
    return ns_load_u64(&t.word[at], RELAXED)


cdef inline void table_look(member_t *me, stations_t *state, uint32_t station) noexcept nogil:
    """A station is unknown, or on one of its ports; a fixed one is known, but for a moment in which it is moved."""
    cdef uint32_t looks = 0
    cdef uint64_t w = table_lookup(me, state.table, state.mac[station])
    while w == 0 and station >= STATIONS and looks < 64:
        looks += 1
        w = table_lookup(me, state.table, state.mac[station])
    me.tally.count[1] += looks != 0
    me.tally.bad[1] += looks == 64
    if w != 0 and word_port(w) != port_of(station) and (word_port(w) != port_of(station) + 1 or station >= STATIONS):
        me.tally.bad[0] += 1


cdef void table_member(member_t *me) noexcept nogil:
    """Mostly lookups, some learning, now and then a removal."""
    cdef stations_t *state = <stations_t *> me.party.state
    cdef mactable_t *t = state.table
    cdef uint64_t lot, mac
    cdef uint32_t station, second
    cdef int result
    cdef uint8_t port
    while goes_on(me):
        lot = chance(me)
        station = <uint32_t> (lot >> 32) % (STATIONS + STATICS)
        mac = state.mac[station]
        if lot & 7 > 2 or station >= STATIONS:
            table_look(me, state, station)
            me.tally.count[0] += 1
        elif lot & 7:
            port = <uint8_t> (port_of(station) + (lot >> 20 & 1))
            second = <uint32_t> (lot >> 24) % SECONDS
            if me.party.mutant == TABLE_LEARN_UNLOCKED:
                result = mac_enter_locked(t, mac, port, second)
            else:
                result = mac_learn(t, mac, port, second)
            me.tally.count[2] += 1
            me.tally.count[1] += result == LEARN_MOVED
        else:
            spin_enter(&t.lock)
            me.tally.count[3] += mac_remove_locked(t, mac)
            spin_exit(&t.lock)
        if lot >> 40 & 15 == 0:
            linger(lot >> 44)


cdef class TableTorture(Torture):
    """All threads look up, learn, move and remove the same few stations.

    Near misses: a station moved to its other port, or a fixed one was missed while it changed buckets.
    """

    MUTANTS = ("learn_unlocked", "look_twice")
    COUNTS = ("lookups", "near_misses", "learned", "removed")
    VIOLATIONS = ("wrong_port", "fixed_missing", "miscounted")
    cdef stations_t *state
    cdef readonly MacTable table

    def __init__(self, threads: int, seed: int = 0, *, mutant: str = ""):
        cdef uint32_t i = 0
        cdef uint64_t key = 2
        self.table = MacTable(100, seed)
        self.state = <stations_t *> own_lines(sizeof(stations_t))
        self.state.table = self.table.table
        while i < STATIONS + STATICS:
            key += 0x100
            if mac_bucket1(self.table.table, key) < BUCKETS and mac_bucket2(self.table.table, key) < BUCKETS:
                self.state.mac[i] = key
                i += 1
        for i in range(STATIONS, STATIONS + STATICS):
            self.table.add_static(int(self.state.mac[i]).to_bytes(6, "little"), port_of(i))
        self.begin(table_member, self.state)

    def __dealloc__(self):
        free(self.state)

    @property
    def violations(self) -> dict:
        """Each station is in the table once, and the table counts what it holds."""
        found = Torture.violations.__get__(self)
        held = [entry[0] for entry in self.table.entries()]
        found["miscounted"] = (len(held) - len(set(held))
                               + abs(len(held) - <int> (self.table.table.count + self.table.table.statics)))
        return found
