"""Explorer scenarios of the bridge: stations learned, refreshed, aged and removed at once; a member deleted in traffic.

Each is a world, a setup, what each CPU does, and what must hold in the end; see ``explore.pyx`` for the table.
The address table has one bucket, so that all stations meet.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from netstack._fast.atomics cimport (ns_load_u32, ns_load_u64, ns_load_ptr, ns_store_u32, ns_store_ptr, ns_add_u32,
                                     ns_pause, RELAXED, ACQREL)
from netstack._fast.bridge cimport bridge_t, brmap_t, brstat_t, OUT_UNKNOWN
from netstack._fast.bridge_stages cimport bridge_decide_one
from netstack._fast.cpu cimport cpu_t
from netstack._fast.defs cimport MAC_MASK
from netstack._fast.explorer cimport must
from netstack._fast.ifnet cimport ifnet_t
from netstack._fast.lock cimport spin_enter, spin_exit
from netstack._fast.mactable cimport (mactable_t, pick_t, mac_lookup, mac_learn, mac_picked, mac_clear_locked,
                                      mac_remove_locked, mac_retire_locked, word_is_dead, word_port, word_age, word_of,
                                      age_of, BUCKET_SLOTS, KIND_DYNAMIC)
from netstack._fast.mutants cimport (ns_mutant, MUT_UNLINK_AFTER_WAIT, MUT_NO_WAIT_FOR_REFERENCES,
                                     MUT_REFERENCE_OUTSIDE, MUT_PURGE_BEFORE_WAIT, MUT_MAP_FREED_EARLY,
                                     MUT_NUMBER_REUSED_EARLY, MUT_NUMBER_NOT_SWEPT)
from netstack._fast.pserialize cimport (psz_t, psz_slot_t, psz_grace_t, psz_read_enter, psz_read_exit,
                                        psz_perform_begin, psz_perform_poll, PSZ_SEQCST)

cdef enum:
    STATION_A = 0x020000000002   # unicast, and its two halves are no address of the table
    STATION_B = 0x040000000004
    HALF_OF_A = 0x000000000002
    SECOND = 10

cdef struct table_t:
    mactable_t t
    uint64_t word[BUCKET_SLOTS]
    uint32_t seen[BUCKET_SLOTS]

cdef inline void table_setup(table_t *w) noexcept nogil:
    memset(w, 0, sizeof(table_t))
    w.t.word = &w.word[0]
    w.t.seen = &w.seen[0]
    w.t.shift = 63                   # both keys are 0: one bucket
    w.t.nbuckets = 1
    w.t.max = 100

cdef inline uint32_t table_count(table_t *w, uint64_t mac) noexcept nogil:
    """Words of an address, of any for 0.  In the end, when nobody is at work."""
    cdef uint32_t i, n = 0
    for i in range(BUCKET_SLOTS):
        n += w.word[i] != 0 if mac == 0 else (w.word[i] & <uint64_t> MAC_MASK) == mac
    return n

cdef inline void table_must_add_up(table_t *w) noexcept nogil:
    cdef uint32_t port, n = 0
    must(w.t.count == table_count(w, 0), b"address table: the count is not the number of entries")
    for port in range(4):
        n += w.t.held[KIND_DYNAMIC][port]
    must(w.t.count == n, b"address table: the counts per port are not the number of entries")
    must(w.t.lock.word == 0, b"address table: left locked")

# Two CPUs learn one station on two ports; each sees the one or the other.

cdef inline void learn_setup(void *world) noexcept nogil:
    table_setup(<table_t *> world)

cdef inline void learn_see(table_t *w, uint64_t mac) noexcept nogil:
    cdef uint64_t found = mac_lookup(&w.t, mac)
    if found != 0:
        must(word_port(found) == 1 or word_port(found) == 2, b"address table: a port nobody learned")
        must(word_age(found) == age_of(SECOND), b"address table: an age nobody wrote")

cdef inline void learn_body(void *world, int cpu) noexcept nogil:
    cdef table_t *w = <table_t *> world
    if cpu == 1:
        learn_see(w, HALF_OF_A)
    mac_learn(&w.t, STATION_A, cpu + 1, SECOND)
    learn_see(w, STATION_A)
    if cpu == 1:
        mac_learn(&w.t, STATION_B, cpu + 1, SECOND)

cdef inline void learn_finish(void *world) noexcept nogil:
    cdef table_t *w = <table_t *> world
    must(table_count(w, STATION_A) == 1, b"address table: a station has two entries, or none")
    must(table_count(w, STATION_B) == 1, b"address table: a station has two entries, or none")
    table_must_add_up(w)

# A station is refreshed, moved, aged out and removed, all at once.

cdef inline void age_setup(void *world) noexcept nogil:
    cdef table_t *w = <table_t *> world
    table_setup(w)
    w.word[0] = word_of(STATION_A, 1, age_of(SECOND))
    w.seen[0] = SECOND
    w.t.count = 1
    w.t.held[KIND_DYNAMIC][1] = 1

cdef inline uint32_t table_sweep(table_t *w, pick_t *pick, bint although_refreshed) noexcept nogil:
    """What a flush and the ageing sweep do with a bucket: how many went."""
    cdef int64_t at
    cdef uint64_t word
    cdef uint32_t n = 0
    spin_enter(&w.t.lock)
    for at in range(BUCKET_SLOTS):
        word = ns_load_u64(&w.t.word[at], RELAXED)
        if mac_picked(&w.t, pick, at, word):
            n += mac_clear_locked(&w.t, at, word, although_refreshed)
    spin_exit(&w.t.lock)
    return n

cdef inline void age_body(void *world, int cpu) noexcept nogil:
    cdef table_t *w = <table_t *> world
    cdef pick_t pick
    if cpu == 0:
        mac_learn(&w.t, STATION_A, 1, SECOND + 1)
        mac_learn(&w.t, STATION_A, 2, SECOND + 1)
    elif cpu == 1:
        pick.port = -1
        pick.kinds = 1 << KIND_DYNAMIC
        pick.seen_until = SECOND
        table_sweep(w, &pick, False)
    else:
        spin_enter(&w.t.lock)
        mac_remove_locked(&w.t, STATION_A)
        spin_exit(&w.t.lock)

cdef inline void age_finish(void *world) noexcept nogil:
    cdef table_t *w = <table_t *> world
    must(table_count(w, STATION_A) <= 1, b"address table: a station has two entries")
    table_must_add_up(w)

# A member is deleted while frames come from it and go to it (paper §3.2.2).

cdef enum:
    GONE = 1                     # port of the member that is deleted
    STAYS = 2
    LIVE = 1
    FREED = 2

cdef struct delete_world_t:
    bridge_t br
    brstat_t stat[3]
    psz_t psz
    psz_slot_t slot[3]
    psz_grace_t grace
    uint32_t refs[3]             # references of a port's member
    uint32_t member[3]           # LIVE or FREED
    uint32_t map_state[2]
    uint32_t is_deleted
    table_t table
    brmap_t map[2]
    cpu_t cpu[3]

cdef inline void delete_setup(void *world) noexcept nogil:
    cdef delete_world_t *w = <delete_world_t *> world
    cdef uint32_t i, port
    memset(world, 0, sizeof(bridge_t) + 3 * sizeof(brstat_t) + sizeof(psz_t) + 3 * sizeof(psz_slot_t))
    table_setup(&w.table)
    w.psz.strategy = PSZ_SEQCST
    w.psz.ncpu = 3
    w.psz.slot = &w.slot[0]
    w.br.map = &w.map[0]
    w.br.table = &w.table.t
    for i in range(3):
        w.cpu[i].index = i
        w.cpu[i].second = SECOND
        w.refs[i] = 0
        w.member[i] = LIVE
    for i in range(2):
        w.map_state[i] = LIVE
        w.map[i].nports = 3
        w.map[i].running = 1
        for port in range(GONE, STAYS + 1):
            w.map[i].port[port].ifp = <ifnet_t *> &w.member[port] if i == 0 or port != GONE else NULL
            w.map[i].port[port].learn = 1
            w.map[i].port[port].port = port
            w.map[i].port[port].tag = port
    w.is_deleted = 0

cdef inline void delete_use(delete_world_t *w, uint32_t port) noexcept nogil:
    """Something that may sleep: outside the section, by the reference."""
    must(ns_load_u32(&w.member[port], RELAXED) == LIVE, b"bridge: a member is used after it was freed")

cdef inline void delete_frame(delete_world_t *w, int cpu, uint32_t inport, uint64_t src, uint64_t dst) noexcept nogil:
    """bridge_forward of one frame, with a reference per use as in the paper."""
    cdef brmap_t *map
    cdef uint16_t out
    psz_read_enter(&w.psz, cpu)
    map = <brmap_t *> ns_load_ptr(&w.br.map, ACQREL)
    if map.port[inport].ifp == NULL:
        psz_read_exit(&w.psz, cpu)
        return
    out = bridge_decide_one(&w.cpu[cpu], map, <mactable_t *> ns_load_ptr(&w.br.table, ACQREL), &w.stat[cpu], inport,
                            src, dst)
    must(ns_load_u32(&w.map_state[map - &w.map[0]], RELAXED) == LIVE, b"bridge: a port map is used after it was freed")
    if out >= OUT_UNKNOWN:
        psz_read_exit(&w.psz, cpu)
        return
    if not ns_mutant(MUT_REFERENCE_OUTSIDE):
        ns_add_u32(&w.refs[out], 1)
    psz_read_exit(&w.psz, cpu)
    if ns_mutant(MUT_REFERENCE_OUTSIDE):
        ns_add_u32(&w.refs[out], 1)
    delete_use(w, out)
    ns_add_u32(&w.refs[out], <uint32_t> -1)

cdef inline void delete_purge(delete_world_t *w) noexcept nogil:
    cdef pick_t pick
    pick.port = GONE
    pick.kinds = 1 << KIND_DYNAMIC
    pick.seen_until = -1
    table_sweep(&w.table, &pick, True)

cdef inline void delete_member(delete_world_t *w) noexcept nogil:
    """Unlink, wait for readers, remove the addresses, wait for references, free."""
    if not ns_mutant(MUT_UNLINK_AFTER_WAIT):
        ns_store_ptr(&w.br.map, &w.map[1], ACQREL)
    if ns_mutant(MUT_PURGE_BEFORE_WAIT):
        delete_purge(w)
    if not ns_mutant(MUT_MAP_FREED_EARLY):
        psz_perform_begin(&w.psz, &w.grace)
        while psz_perform_poll(&w.psz, &w.grace):
            ns_pause()
    if ns_mutant(MUT_UNLINK_AFTER_WAIT):
        ns_store_ptr(&w.br.map, &w.map[1], ACQREL)
    ns_store_u32(&w.map_state[0], FREED, RELAXED)
    if not ns_mutant(MUT_PURGE_BEFORE_WAIT):
        delete_purge(w)
    while not ns_mutant(MUT_NO_WAIT_FOR_REFERENCES) and ns_load_u32(&w.refs[GONE], ACQREL):
        ns_pause()
    ns_store_u32(&w.member[GONE], FREED, RELAXED)

cdef inline void delete_body(void *world, int cpu) noexcept nogil:
    cdef delete_world_t *w = <delete_world_t *> world
    if cpu == 0:
        delete_member(w)
    elif cpu == 1:
        delete_frame(w, cpu, GONE, STATION_A, STATION_B)
    else:
        delete_frame(w, cpu, STAYS, STATION_B, STATION_A)
        delete_frame(w, cpu, STAYS, STATION_B, STATION_A)

cdef inline void delete_finish(void *world) noexcept nogil:
    cdef delete_world_t *w = <delete_world_t *> world
    must(w.table.t.held[KIND_DYNAMIC][GONE] == 0 and table_count(&w.table, STATION_A) == 0,
         b"bridge: an address of the deleted member is in the table")
    must(w.refs[GONE] == 0 and w.refs[STAYS] == 0, b"bridge: a reference is left")
    table_must_add_up(&w.table)

# Learned addresses are flushed by new numbers, and the old number then serves another member.

cdef enum:
    OLD_TAG = 3
    NEW_TAG = 4

cdef struct flush_world_t:
    bridge_t br
    brstat_t stat[3]
    psz_t psz
    psz_slot_t slot[3]
    psz_grace_t grace
    table_t table
    ifnet_t ifp[3]
    brmap_t map[3]               # before, flushed, and with the old number on the other member
    cpu_t cpu[3]

cdef inline void flush_member(flush_world_t *w, uint32_t map, uint32_t port, uint32_t tag) noexcept nogil:
    """Both numbers of a member lead to it."""
    cdef uint32_t i, number
    for i in range(2):
        number = port if i == 0 else tag
        w.map[map].port[number].ifp = &w.ifp[port]
        w.map[map].port[number].learn = 1
        w.map[map].port[number].port = <uint8_t> port
        w.map[map].port[number].tag = <uint8_t> tag

cdef inline void flush_setup(void *world) noexcept nogil:
    cdef flush_world_t *w = <flush_world_t *> world
    cdef uint32_t i
    memset(world, 0, sizeof(bridge_t) + 3 * sizeof(brstat_t) + sizeof(psz_t) + 3 * sizeof(psz_slot_t))
    table_setup(&w.table)
    w.psz.strategy = PSZ_SEQCST
    w.psz.ncpu = 3
    w.psz.slot = &w.slot[0]
    w.br.map = &w.map[0]
    w.br.table = &w.table.t
    for i in range(3):
        w.cpu[i].index = i
        w.cpu[i].second = SECOND
        w.map[i].nports = 3
        w.map[i].running = 1
    flush_member(w, 0, 1, OLD_TAG)
    flush_member(w, 0, 2, 2)
    flush_member(w, 1, 1, NEW_TAG)
    flush_member(w, 1, 2, 2)
    flush_member(w, 2, 1, NEW_TAG)
    flush_member(w, 2, 2, OLD_TAG)

cdef inline void flush_publish(flush_world_t *w, uint32_t map) noexcept nogil:
    ns_store_ptr(&w.br.map, &w.map[map], ACQREL)
    if ns_mutant(MUT_NUMBER_REUSED_EARLY):
        return
    psz_perform_begin(&w.psz, &w.grace)
    while psz_perform_poll(&w.psz, &w.grace):
        ns_pause()

cdef inline void flush_run(flush_world_t *w) noexcept nogil:
    """Retire the number, publish a map with another, wait; sweep; then the number is free for anybody."""
    cdef int64_t at
    cdef uint64_t word
    spin_enter(&w.table.t.lock)
    mac_retire_locked(&w.table.t, OLD_TAG)
    spin_exit(&w.table.t.lock)
    flush_publish(w, 1)
    spin_enter(&w.table.t.lock)
    for at in range(BUCKET_SLOTS):
        word = ns_load_u64(&w.table.t.word[at], RELAXED)
        if word != 0 and word_is_dead(&w.table.t, word) and not ns_mutant(MUT_NUMBER_NOT_SWEPT):
            mac_clear_locked(&w.table.t, at, word, True)
    spin_exit(&w.table.t.lock)
    ns_store_u32(&w.table.t.dead[OLD_TAG], 0, RELAXED)
    flush_publish(w, 2)

cdef inline void flush_frame(flush_world_t *w, int cpu, uint32_t inport, uint64_t src, uint64_t dst) noexcept nogil:
    """A frame for a station of port 1 leaves by port 1, or by all: never by where its number went."""
    cdef brmap_t *map
    cdef uint16_t out
    psz_read_enter(&w.psz, cpu)
    map = <brmap_t *> ns_load_ptr(&w.br.map, ACQREL)
    out = bridge_decide_one(&w.cpu[cpu], map, <mactable_t *> ns_load_ptr(&w.br.table, ACQREL), &w.stat[cpu], inport,
                            src, dst)
    psz_read_exit(&w.psz, cpu)
    if dst == STATION_A:
        must(out == 1 or out == OUT_UNKNOWN, b"bridge: a flushed address leads to another member")

cdef inline void flush_body(void *world, int cpu) noexcept nogil:
    cdef flush_world_t *w = <flush_world_t *> world
    if cpu == 0:
        flush_run(w)
    elif cpu == 1:
        flush_frame(w, cpu, 1, STATION_A, STATION_B)
    else:
        flush_frame(w, cpu, 2, 0, STATION_A)
        flush_frame(w, cpu, 2, 0, STATION_A)

cdef inline void flush_finish(void *world) noexcept nogil:
    cdef flush_world_t *w = <flush_world_t *> world
    cdef uint64_t word = mac_lookup(&w.table.t, STATION_A)
    must(word == 0 or word_port(word) == NEW_TAG, b"bridge: a flushed address is in the table")
    must(w.table.t.count == table_count(&w.table, 0), b"address table: the count is not the number of entries")
