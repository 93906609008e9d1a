"""Threads that meet inside compiled code and then use the same object, rightly or (planted) wrongly.

The gate uses seq_cst additions before and relaxed loads after: it orders what was done before it, nothing that comes
after.  So a sanitizer sees the accesses as they are, and no hand-over of the GIL hides a race.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from netstack._fast.atomics cimport (ns_add_u32, ns_compiler_barrier, ns_load_ptr, ns_load_u32, ns_pause, ns_store_ptr,
                                     RELAXED, ACQREL)
from netstack._fast.ifqueue cimport IfQueue, ifq_get, ifq_put
from netstack._fast.lock cimport SpinLock, sched_yield, spin_enter, spin_exit
from netstack._fast.mactable cimport MacTable, mac_learn, mac_lookup
from netstack._fast.mbuf cimport MbufPool, magazine_t, mbuf_t, mbufpool_t, m_freem, m_get, m_put
from netstack._fast.mutants cimport (MUT_IFQ_PUT_UNLOCKED, MUT_PSZ_FIRST_CPU_ONLY, MUT_PSZ_NO_WAIT,
                                     MUT_SPIN_EXIT_RELAXED, MUT_SPIN_NOT_ATOMIC)
from netstack._fast.pserialize cimport (PSerialize, psz_grace_t, psz_idle, psz_perform_begin, psz_perform_poll,
                                        psz_read_enter, psz_read_exit, psz_switchpoint)

cdef extern from "mutants.h":
    int ns_mutant_on

MUTANTS = {
    "ifq_put_unlocked": MUT_IFQ_PUT_UNLOCKED,
    "psz_first_cpu_only": MUT_PSZ_FIRST_CPU_ONLY,
    "psz_no_wait": MUT_PSZ_NO_WAIT,
    "spin_exit_relaxed": MUT_SPIN_EXIT_RELAXED,
    "spin_not_atomic": MUT_SPIN_NOT_ATOMIC,
}


def plant(name: str) -> None:
    """Turn on one of ``MUTANTS`` in the kernels compiled into this module."""
    global ns_mutant_on
    ns_mutant_on = MUTANTS[name]


cdef struct node_t:
    uint64_t value


cdef class Gate:
    """Where ``n`` threads meet; also what they share: a counter, and a published node of two."""
    cdef uint32_t n
    cdef uint32_t arrived
    cdef uint32_t done
    cdef uint64_t counter
    cdef node_t *published
    cdef node_t node[2]

    def __cinit__(self, n: int):
        self.n = n
        self.published = &self.node[0]

    @property
    def count(self) -> int:
        return self.counter


cdef void meet(Gate gate) noexcept nogil:
    cdef uint32_t spins = 0
    ns_add_u32(&gate.arrived, 1)
    while ns_load_u32(&gate.arrived, RELAXED) < gate.n:
        ns_pause()
        spins += 1
        if spins & 63 == 0:
            sched_yield()


def count(Gate gate not None, rounds: int, SpinLock lock=None) -> None:
    """Add one to the shared counter, under a lock or (planted) without."""
    cdef uint32_t _i, n = rounds
    with nogil:
        meet(gate)
        for _i in range(n):
            if lock is not None:
                spin_enter(&lock.lock)
            gate.counter += 1
            if lock is not None:
                spin_exit(&lock.lock)
            ns_compiler_barrier()


def allocate(Gate gate not None, MbufPool pool not None, cpu: int, rounds: int) -> None:
    """Take and give back mbufs with the magazine of a CPU; one magazine for two threads is a planted race."""
    cdef mbufpool_t *p = &pool.pool
    cdef magazine_t *mag = p.mag[<uint32_t> cpu]
    cdef mbuf_t *held[48]
    cdef uint32_t i, k, n = rounds, have
    with nogil:
        meet(gate)
        for i in range(n):
            have = 0
            for k in range(48):
                held[have] = m_get(p, mag)
                if held[have] != NULL:
                    held[have].m_data[i & 1023] = <uint8_t> i
                    held[have].m_len = k
                    have += 1
            for k in range(have):
                m_put(p, mag, held[k])


def produce(Gate gate not None, MbufPool pool not None, IfQueue queue not None, cpu: int, rounds: int) -> int:
    """Put frames of three bytes on a send queue; how many it took."""
    cdef mbufpool_t *p = &pool.pool
    cdef magazine_t *mag = p.mag[<uint32_t> cpu]
    cdef mbuf_t *m
    cdef uint32_t i, n = rounds, sent = 0
    with nogil:
        meet(gate)
        for i in range(n):
            m = m_get(p, mag)
            if m == NULL:
                sched_yield()
                continue
            m.m_len = m.m_pktlen = 3
            m.m_data[0] = m.m_data[1] = m.m_data[2] = <uint8_t> i
            if ifq_put(&queue.q, &m, 1):
                sent += 1
            else:
                m_freem(p, mag, m)
                sched_yield()
        ns_add_u32(&gate.done, 1)
    return sent


def consume(Gate gate not None, MbufPool pool not None, IfQueue queue not None, cpu: int, producers: int) -> int:
    """Take frames until every producer is done and the queue is empty; how many were whole."""
    cdef mbufpool_t *p = &pool.pool
    cdef magazine_t *mag = p.mag[<uint32_t> cpu]
    cdef mbuf_t *m[16]
    cdef uint32_t k, got, whole = 0, makers = producers
    cdef bint last
    with nogil:
        meet(gate)
        while True:
            last = ns_load_u32(&gate.done, ACQREL) == makers
            got = ifq_get(&queue.q, m, 16)
            for k in range(got):
                whole += m[k].m_len == 3 and m[k].m_data[0] == m[k].m_data[2]
                m_freem(p, mag, m[k])
            if got == 0:
                if last:
                    break
                sched_yield()
    return whole


def learn(Gate gate not None, MacTable table not None, port: int, rounds: int) -> int:
    """Learn stations that others learn too, and look them up; how many look-ups found one."""
    cdef uint32_t i, n = rounds, found = 0
    cdef uint8_t mine = port
    with nogil:
        meet(gate)
        for i in range(n):
            mac_learn(table.table, 2 + 2 * <uint64_t> (i * 7 % 61), mine, i >> 6)
            found += mac_lookup(table.table, 2 + 2 * <uint64_t> (i % 61)) != 0
    return found


def read(Gate gate not None, PSerialize psz not None, cpu: int, rounds: int) -> int:
    """Read the published node inside read sections, with plain loads; the sum of what was read."""
    cdef uint32_t _i, n = rounds, here = cpu
    cdef uint64_t total = 0
    cdef node_t *node
    psz_idle(&psz.psz, here, False)
    with nogil:
        meet(gate)
        for _i in range(n):
            psz_read_enter(&psz.psz, here)
            node = <node_t *> ns_load_ptr(&gate.published, ACQREL)
            total += node.value
            psz_read_exit(&psz.psz, here)
            psz_switchpoint(&psz.psz, here)
        psz_idle(&psz.psz, here, True)
        ns_add_u32(&gate.done, 1)
    return total


def publish(Gate gate not None, PSerialize psz not None, readers: int, waits: bool) -> int:
    """Publish one node, wait for a grace period (or, planted, do not), reuse the other; how often."""
    cdef psz_grace_t grace
    cdef uint32_t turns = 0, makers = readers
    cdef bint wait = waits
    cdef node_t *other = &gate.node[1]
    cdef node_t *old
    with nogil:
        meet(gate)
        while turns == 0 or ns_load_u32(&gate.done, RELAXED) < makers:
            other.value = turns
            old = gate.published
            ns_store_ptr(&gate.published, other, ACQREL)
            if wait:
                psz_perform_begin(&psz.psz, &grace)
                while psz_perform_poll(&psz.psz, &grace):
                    sched_yield()
            other = old
            turns += 1
    return turns


# What AddressSanitizer and UBSan must report.

def overflow(nbytes: int) -> int:
    """Write one byte behind a block."""
    cdef size_t n = nbytes
    cdef uint8_t *block = <uint8_t *> malloc(n)
    cdef int value
    block[n] = 1
    ns_compiler_barrier()
    value = block[n]
    free(block)
    return value


def stale(MbufPool pool not None) -> int:
    """Read an mbuf that was given back."""
    cdef mbufpool_t *p = &pool.pool
    cdef mbuf_t *m = m_get(p, p.mag[0])
    m.m_data[0] = 1
    m_put(p, p.mag[0], m)
    ns_compiler_barrier()
    return m.m_data[0]


def signed_overflow(value: int) -> int:
    """Double an int."""
    cdef int number = value
    number += number
    return number


def misaligned(offset: int) -> int:
    """Load eight bytes from an odd address."""
    cdef uint8_t block[32]
    cdef uint64_t *word = <uint64_t *> (&block[0] + <size_t> offset)
    word[0] = 1
    ns_compiler_barrier()
    return word[0]
