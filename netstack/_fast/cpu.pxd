"""What the kernels know of a CPU: its magazine, vectors, interrupt slots, softint queues, punt ring (paper §2.1,
§3.3)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from netstack._fast.defs cimport (VEC_MAX, CPU_MAX, VECTOR_MAX, VECTOR_WORDS, SOFTINT_MAX, SOFTINT_LEVELS, PORT_MAX,
                                  TXQ_MAX)
from netstack._fast.mbuf cimport (mbuf_t, mbufpool_t, magazine_t, pktvec_t, MbufPool)
from netstack._fast.intr cimport lapic_t, intc_t, intrsrc_t, cpu_wake, IntrController, IntrSource
from netstack._fast.ifnet cimport ifnet_t, ifstat_t
from netstack._fast.ifqueue cimport ifqueue_t
from netstack._fast.dring cimport desc_t, dring_t, DESC_DD
from netstack._fast.wire cimport hwrx_t, hwtx_t
from netstack._fast.pserialize cimport psz_t, PSerialize
from netstack._fast.lock cimport spin_t, SpinLock
from netstack._fast.atomics cimport (ns_count_u64, ns_load_u32, ns_load_u64, ns_store_u64, ns_or_u64, ns_xchg_u64,
                                     RELAXED, ACQREL)

from netstack._fast.mutants cimport ns_mutant, MUT_SOFTINT_CLEAR_LATE, MUT_REMOTE_TAKE_NOT_ATOMIC

cdef extern from * nogil:
    """
    #define ctz64(x) __builtin_ctzll(x)
    """
    int ctz64(uint64_t x) noexcept

cdef enum:
    PUNT_SLOTS = 4096            # frames the punt ring of a CPU holds
    FWDQ_SLOTS = 256             # frames of the classic frame's bridge forwarding queue (NetBSD: 256)
    FDS_MAX = 64                 # host descriptors one CPU watches
    VEC_PYTHON = 0               # what an interrupt slot is bound to
    VEC_SOFTDRV = 1              # hard handler of the softint frame: mark and schedule
    VEC_CLASSIC = 2              # hard handler of the classic frame: drain, queue for the bridge softint
    SOFT_PYTHON = 0              # what a softint handle is bound to
    SOFT_RX = 1                  # receive softint of one queue
    SOFT_BRIDGE = 2              # bridge_forward softint of the classic frame
    SOFT_TX = 3                  # transmit softint of one queue
    PUNT_INPUT = 1               # for a Python if_input slot
    PUNT_LOCAL = 2               # for ether_input of m_rcvif
    PUNT_TRANSMIT = 3            # for a Python if_transmit slot; m_rcvif is the output interface
    RUN_BUDGET = 0               # why the run loop came back
    RUN_PYTHON = 1
    RUN_STOP = 2
    RUN_IDLE = 3

cdef struct cpu_t
cdef struct rxq_t
cdef struct txq_t

# Take up to limit received frames into vec, in order; how many.  Sets m_len, m_pktlen, m_next, m_rcvif, m_flags.
ctypedef uint32_t (*rx_fn)(cpu_t *cpu, rxq_t *rxq, pktvec_t *vec, uint32_t limit) noexcept nogil
# Called with txq.lock held: move frames from if_snd to the device and give sent ones back; how many left the queue.
ctypedef uint32_t (*start_fn)(cpu_t *cpu, txq_t *txq) noexcept nogil

cdef struct rxq_t:
    ifnet_t *ifp
    rx_fn rx                     # NULL: descriptor ring below
    void *private                # of rx
    hwrx_t *hw                   # rings the doorbell of
    intrsrc_t *intr
    dring_t ring                 # guarded by lock
    spin_t lock                  # the RX mutex (paper §3.2.1)
    uint32_t index
    uint32_t limit               # frames per activation: 1, n, or the ring
    uint32_t stopping
    uint32_t softint             # handle
    uint64_t activations
    uint64_t frames

cdef struct txq_t:
    ifnet_t *ifp
    start_fn start               # NULL: descriptor ring below
    void *private                # of start
    hwtx_t *hw
    intrsrc_t *intr
    spin_t lock                  # the TX mutex (paper §3.2.1); guards ring, reclaim, start
    dring_t ring                 # next: oldest slot not yet given back
    ifqueue_t snd                # if_snd; has its own lock
    uint32_t index
    uint32_t stopping
    uint32_t is_full             # ring was full: TX completion restarts
    uint32_t softint             # handle, 0 = none
    uint64_t handovers           # bursts left to the lock's holder
    uint64_t sent

cdef struct outlist_t:
    uint32_t n
    uint32_t pad
    mbuf_t *m[VEC_MAX]

cdef struct vecent_t:            # an interrupt slot of this CPU
    uint32_t kind
    uint32_t softint
    rxq_t *rxq
    txq_t *txq
    uint64_t count

cdef struct softent_t:           # a softint handle, the same on all CPUs
    uint32_t kind
    uint32_t level
    uint32_t mpsafe
    uint32_t pad
    rxq_t *rxq
    txq_t *txq

cdef struct softq_t:             # FIFO of pending handles of one level; this CPU only
    uint32_t head
    uint32_t tail
    uint8_t handle[SOFTINT_MAX]

cdef struct fdent_t:             # a host descriptor whose readiness is an interrupt
    int fd
    int events
    intrsrc_t *intr

cdef struct cpu_t:
    uint32_t index
    uint32_t second              # machine time in whole seconds, for ages
    uint64_t now_ns              # machine time; set by the machine before it calls a kernel
    mbufpool_t *pool
    magazine_t *mag
    psz_t *psz
    lapic_t *lapic
    intc_t *intc
    spin_t *giant                # KERNEL_LOCK on a GENERIC kernel, else NULL
    softent_t *soft              # SOFTINT_MAX entries shared by the machine
    pktvec_t *vec                # working vector of the softint
    pktvec_t *hardvec            # working vector of the hard handler
    outlist_t *out               # PORT_MAX + 1 lists: frames per output port
    ifnet_t **ifnets             # by index; the machine's table
    uint32_t nifnets
    uint32_t stop                # 1: the run loop ends
    uint32_t pause_wanted        # the Python thread wants the CPU
    uint32_t paused              # it has it
    uint32_t python_posted       # the Python thread has been told that there is work for it
    int python_eventfd           # tells it; -1: none
    uint32_t is_idle             # the loop found nothing and sleeps
    uint32_t busy_poll_ns        # keep looking for work this long before sleeping
    uint32_t nfds
    uint64_t loops
    uint64_t hardints
    uint64_t softints
    uint64_t idles
    uint64_t gil_returns
    uint32_t punt_head
    uint32_t punt_tail
    uint32_t fwdq_head
    uint32_t fwdq_tail
    uint32_t fwdq_softint        # handle of the bridge softint, 0 = none
    uint32_t punt_softint        # handle of the Python softint that drains the punt ring, 0 = none
    uint32_t soft_blocked        # bit per softint level: a Python handler waits for a lock, nothing of it may start
    uint32_t ngens
    hwrx_t *gens[64]
    softq_t softq[SOFTINT_LEVELS]
    softq_t pyq[SOFTINT_LEVELS]  # handles whose handler is Python, taken off softq by the loop
    uint64_t pyvec[VECTOR_WORDS]   # hard interrupts whose handler is Python
    uint8_t soft_pending[SOFTINT_MAX]
    uint8_t soft_active[SOFTINT_MAX]
    uint8_t port_order[PORT_MAX + 4]
    vecent_t vector[VECTOR_MAX]
    fdent_t fds[FDS_MAX]
    mbuf_t *fwdq[FWDQ_SLOTS]
    mbuf_t *punt[PUNT_SLOTS]

cdef inline void softint_schedule(cpu_t *cpu, uint32_t handle) noexcept nogil:
    """Make a softint pending on this CPU; nothing when it already is.  Runs on this CPU (softint(9))."""
    cdef softq_t *q
    if cpu.soft_pending[handle]:
        return
    cpu.soft_pending[handle] = 1
    q = &cpu.softq[cpu.soft[handle].level]
    q.handle[q.tail & (SOFTINT_MAX - 1)] = <uint8_t> handle
    q.tail += 1


cdef inline int softint_next(cpu_t *cpu, uint32_t level) noexcept nogil:
    """Take the oldest pending handle of a level (its PENDING bit goes off), or -1."""
    cdef softq_t *q = &cpu.softq[level]
    cdef uint32_t handle
    if q.head == q.tail:
        return -1
    handle = q.handle[q.head & (SOFTINT_MAX - 1)]
    q.head += 1
    if not ns_mutant(MUT_SOFTINT_CLEAR_LATE):
        cpu.soft_pending[handle] = 0     # before the handler runs: what is scheduled meanwhile is not lost
    return <int> handle


cdef inline bint rx_is_ready(rxq_t *rxq) noexcept nogil:
    """A received frame waits in the ring; a queue without a ring may always have one."""
    cdef desc_t *d = &rxq.ring.desc[ns_load_u32(&rxq.ring.next, RELAXED) & rxq.ring.mask]
    return rxq.rx != NULL or ns_load_u32(&d.status, ACQREL) & DESC_DD != 0


cdef inline void stat_drop(cpu_t *cpu, ifnet_t *ifp, uint32_t reason, uint64_t n) noexcept nogil:
    """Count n frames lost for a named reason on the interface they came from."""
    ns_count_u64(&ifp.stat[cpu.index].drops[reason], n)

cdef inline void softint_post(cpu_t *cpu, uint32_t handle) noexcept nogil:
    """Ask a CPU, from elsewhere, to schedule a softint."""
    ns_or_u64(&cpu.lapic.remote_soft[handle >> 6], <uint64_t> 1 << (handle & 63))
    ns_or_u64(&cpu.intc.cpus_pending, <uint64_t> 1 << cpu.index)
    if cpu.lapic.eventfd >= 0:
        cpu_wake(cpu.lapic)


cdef inline uint32_t remote_take(cpu_t *cpu) noexcept nogil:
    """Schedule here what other CPUs asked for; how many."""
    cdef uint32_t w, n = 0
    cdef uint64_t bits
    for w in range(4):
        if ns_load_u64(&cpu.lapic.remote_soft[w], RELAXED) == 0:
            continue
        if ns_mutant(MUT_REMOTE_TAKE_NOT_ATOMIC):
            bits = ns_load_u64(&cpu.lapic.remote_soft[w], ACQREL)
            ns_store_u64(&cpu.lapic.remote_soft[w], 0, RELAXED)
        else:
            bits = ns_xchg_u64(&cpu.lapic.remote_soft[w], 0)
        while bits:
            softint_schedule(cpu, 64 * w + <uint32_t> ctz64(bits))
            bits &= bits - 1
            n += 1
    return n

cdef class SoftintTable:
    cdef softent_t *soft
    cdef uint32_t used
    cdef list _free
    cdef softent_t *_entry(self, handle) except NULL

cdef class CpuBlock:
    cdef cpu_t *cpu
    cdef readonly IntrController controller
    cdef readonly MbufPool pool
    cdef readonly SoftintTable softints
    cdef readonly PSerialize psz
    cdef SpinLock _giant
    cdef list _keep
    cdef uint32_t _slot(self, slot) except 0xFFFFFFFF
    cdef int _take_python(self, softq_t *q)
