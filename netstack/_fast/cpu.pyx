"""CPUs as the kernels see them, and the table of softint handles (paper §2.1, §2.2.2, §3.3; NetBSD softint(9)).

A ``CpuBlock`` is mechanism only: interrupt slots, pending words, FIFOs of softints, the punt ring.  Who runs what
and when
is decided by an engine (``netstack/machine``).

Context: the CPU itself, or the engine while the CPU does not run; ``softint_post_remote`` and interrupt delivery
may come
from anywhere.
"""
cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from netstack._fast.atomics cimport ns_read_u64, ns_count_u64, ns_load_u64, ns_load_u32, ns_and_u64, ACQREL
from netstack._fast.mbuf cimport m_freem, MbufVec
from netstack._fast.queue cimport RxQueue, TxQueue
from netstack._fast.ifnet cimport IfnetBlock

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **out, size_t alignment, size_t n) noexcept

cdef extern from "string.h" nogil:
    void *memset(void *s, int c, size_t n) noexcept

VEC_KIND = {"python": int(VEC_PYTHON), "softdrv": int(VEC_SOFTDRV), "classic": int(VEC_CLASSIC)}
SOFT_KIND = {"python": int(SOFT_PYTHON), "rx": int(SOFT_RX), "bridge": int(SOFT_BRIDGE), "tx": int(SOFT_TX)}
PUNT_KIND = {"input": int(PUNT_INPUT), "local": int(PUNT_LOCAL), "transmit": int(PUNT_TRANSMIT)}
LEVELS = ("clock", "bio", "net", "serial")
SLOTS = int(VECTOR_MAX)
IFNET_MAX = 65536


cdef class SoftintTable:
    """Softint handles of a machine: 1..255; 0 means none."""

    def __cinit__(self):
        self.soft = <softent_t *> calloc(SOFTINT_MAX, sizeof(softent_t))
        if self.soft == NULL:
            raise MemoryError()
        self.used = 1
        self._free = []

    def __dealloc__(self):
        free(self.soft)

    cdef softent_t *_entry(self, handle) except NULL:
        if not 1 <= handle < self.used:
            raise IndexError(f"no softint handle {handle}")
        return &self.soft[handle]

    def add(self, level: int, mpsafe: bool, kind: str, queue=None) -> int:
        """New handle at level 0..3; ``kind`` one of ``SOFT_KIND``.  OverflowError when all 255 are in use."""
        cdef uint32_t handle
        cdef softent_t *e
        if not 0 <= level < SOFTINT_LEVELS:
            raise ValueError(f"softint level must be 0..3, not {level}")
        if kind not in SOFT_KIND:
            raise ValueError(f"no softint kind {kind!r}: one of {', '.join(SOFT_KIND)}")
        if self._free:
            handle = self._free.pop()
        elif self.used == SOFTINT_MAX:
            raise OverflowError("all 255 softint handles are in use")
        else:
            handle = self.used
            self.used += 1
        e = &self.soft[handle]
        e.level = level
        e.mpsafe = mpsafe
        e.rxq = (<RxQueue> queue).rxq if isinstance(queue, RxQueue) else NULL
        e.txq = (<TxQueue> queue).txq if isinstance(queue, TxQueue) else NULL
        e.kind = SOFT_KIND[kind]
        return handle

    def rebind(self, handle: int, kind: str) -> None:
        """Change which handler serves it.  Not while it is pending anywhere."""
        self._entry(handle).kind = SOFT_KIND[kind]

    def remove(self, handle: int) -> None:
        """Give the handle back; it must not be pending anywhere."""
        self._entry(handle).kind = SOFT_PYTHON
        self.soft[handle].rxq = NULL
        self.soft[handle].txq = NULL
        self._free.append(handle)

    def checked(self, handle: int) -> int:
        """The handle itself; IndexError when there is no such."""
        self._entry(handle)
        return handle

    def level(self, handle: int) -> int:
        return self._entry(handle).level


@cython.no_gc_clear              # what __dealloc__ gives back needs the pool: it may not be cleared away before
cdef class CpuBlock:
    """CPU ``index`` of a machine.  ``giant`` is the KERNEL_LOCK word on a GENERIC kernel."""

    def __cinit__(self, index: int, IntrController controller not None, MbufPool pool not None,
                  SoftintTable softints not None, PSerialize psz not None, SpinLock giant=None):
        cdef void *memory = NULL
        if not 0 <= index < <int> controller.intc.ncpu or index >= <int> pool.pool.nmag - 1:
            raise ValueError(f"CPU {index} has no interrupt controller entry or no magazine")
        if posix_memalign(&memory, 128, sizeof(cpu_t)) != 0:
            raise MemoryError()
        memset(memory, 0, sizeof(cpu_t))
        self.cpu = <cpu_t *> memory
        self.controller, self.pool, self.softints, self.psz, self._giant = controller, pool, softints, psz, giant
        self._keep = []
        self.cpu.index = index
        self.cpu.pool = &pool.pool
        self.cpu.mag = pool.pool.mag[index]
        self.cpu.psz = &psz.psz
        self.cpu.intc = &controller.intc
        self.cpu.lapic = controller.intc.lapic[index]
        self.cpu.giant = &giant.lock if giant is not None else NULL
        self.cpu.soft = softints.soft
        self.cpu.python_eventfd = -1
        self.cpu.vec = <pktvec_t *> calloc(1, sizeof(pktvec_t))
        self.cpu.hardvec = <pktvec_t *> calloc(1, sizeof(pktvec_t))
        self.cpu.out = <outlist_t *> calloc(PORT_MAX + 2, sizeof(outlist_t))
        self.cpu.ifnets = <ifnet_t **> calloc(IFNET_MAX, sizeof(void *))
        if not (self.cpu.vec and self.cpu.hardvec and self.cpu.out and self.cpu.ifnets):
            raise MemoryError()

    def __dealloc__(self):
        if self.cpu != NULL:
            while self.cpu.punt_head != self.cpu.punt_tail:
                m_freem(self.cpu.pool, self.cpu.mag, self.cpu.punt[self.cpu.punt_head & (PUNT_SLOTS - 1)])
                self.cpu.punt_head += 1
            while self.cpu.fwdq_head != self.cpu.fwdq_tail:
                m_freem(self.cpu.pool, self.cpu.mag, self.cpu.fwdq[self.cpu.fwdq_head & (FWDQ_SLOTS - 1)])
                self.cpu.fwdq_head += 1
            free(self.cpu.vec)
            free(self.cpu.hardvec)
            free(self.cpu.out)
            free(self.cpu.ifnets)
            free(self.cpu)

    @property
    def index(self) -> int:
        return self.cpu.index

    @property
    def now_ns(self) -> int:
        """Machine time on this CPU; set by the engine before it calls a kernel."""
        return self.cpu.now_ns

    @now_ns.setter
    def now_ns(self, value: int):
        self.cpu.now_ns = value
        self.cpu.second = <uint32_t> (self.cpu.now_ns // 1000000000)

    @property
    def busy_poll_ns(self) -> int:
        """How long an idle CPU keeps looking for work before it sleeps."""
        return self.cpu.busy_poll_ns

    @busy_poll_ns.setter
    def busy_poll_ns(self, value: int):
        self.cpu.busy_poll_ns = value

    @property
    def punt_softint(self) -> int:
        """Handle scheduled when the punt ring gets frames."""
        return self.cpu.punt_softint

    @punt_softint.setter
    def punt_softint(self, value: int):
        self.cpu.punt_softint = value

    @property
    def fwdq_softint(self) -> int:
        """Handle scheduled when the bridge forwarding queue gets frames (classic frame)."""
        return self.cpu.fwdq_softint

    @fwdq_softint.setter
    def fwdq_softint(self, value: int):
        self.cpu.fwdq_softint = value

    def keep(self, obj) -> None:
        """Hold a reference to something the run loop points to."""
        self._keep.append(obj)

    def set_ifnet(self, index: int, IfnetBlock ifp) -> None:
        """Enter an interface into this CPU's table (None: remove it)."""
        if not 0 <= index < IFNET_MAX:
            raise IndexError(f"no interface slot {index}")
        if ifp is not None:
            self._keep.append(ifp)
        self.cpu.ifnets[index] = ifp.ifp if ifp is not None else NULL

    # Hard interrupts.
    @property
    def intr_pending(self) -> bool:
        cdef uint32_t w
        for w in range(VECTOR_WORDS):
            if ns_load_u64(&self.cpu.lapic.pending[w], ACQREL):
                return True
        return False

    def intr_peek(self) -> list:
        """Pending slots, lowest first; they stay pending."""
        cdef uint32_t w
        cdef uint64_t bits
        out = []
        for w in range(VECTOR_WORDS):
            bits = ns_load_u64(&self.cpu.lapic.pending[w], ACQREL)
            while bits:
                out.append(int(64 * w + ((bits & -bits).bit_length() - 1)))
                bits &= bits - 1
        return out

    def intr_next(self) -> int:
        """Take the lowest pending slot, or -1."""
        for slot in self.intr_peek():
            if self.intr_clear(slot):
                return slot
        return -1

    cdef uint32_t _slot(self, slot) except 0xFFFFFFFF:
        if not 0 <= slot < VECTOR_MAX:
            raise IndexError(f"no interrupt slot {slot}")
        return slot

    def intr_clear(self, slot: int) -> bool:
        """Take one pending slot; False when it was not pending."""
        cdef uint32_t s = self._slot(slot)
        cdef uint64_t bit = <uint64_t> 1 << (s & 63)
        return (ns_and_u64(&self.cpu.lapic.pending[s >> 6], ~bit) & bit) != 0

    def bind(self, slot: int, kind: str, queue=None, softint: int = 0) -> None:
        """Say what an interrupt slot does; ``kind`` one of ``VEC_KIND``."""
        cdef vecent_t *v = &self.cpu.vector[self._slot(slot)]
        v.rxq = (<RxQueue> queue).rxq if isinstance(queue, RxQueue) else NULL
        v.txq = (<TxQueue> queue).txq if isinstance(queue, TxQueue) else NULL
        v.softint = softint
        v.kind = VEC_KIND[kind]

    def unbind(self, slot: int) -> None:
        """Free an interrupt slot."""
        self.bind(slot, "python")

    def count(self, slot: int) -> int:
        """Interrupts taken on a slot."""
        return ns_read_u64(&self.cpu.vector[self._slot(slot)].count)

    def set_count(self, slot: int, value: int) -> None:
        self.cpu.vector[self._slot(slot)].count = value

    def count_one(self, slot: int) -> None:
        """The engine has delivered one interrupt in Python."""
        ns_count_u64(&self.cpu.vector[self._slot(slot)].count, 1)
        ns_count_u64(&self.cpu.hardints, 1)

    # Softints.
    def softint_schedule(self, handle: int) -> None:
        """Make a softint pending on this CPU; called on this CPU, or while it does not run."""
        self.softints._entry(handle)
        softint_schedule(self.cpu, handle)

    def softint_post_remote(self, handle: int) -> None:
        """Ask this CPU, from elsewhere, to schedule a softint."""
        self.softints._entry(handle)
        softint_post(self.cpu, handle)

    def softint_take_remote(self) -> int:
        """Schedule what was asked for from elsewhere; how many."""
        return remote_take(self.cpu)

    cdef int _take_python(self, softq_t *q):
        cdef int handle = q.handle[q.head & (SOFTINT_MAX - 1)]
        q.head += 1
        self.cpu.soft_pending[handle] = 0
        return handle

    def softint_next(self, level: int) -> int:
        """Take the oldest pending handle of a level, or -1."""
        cdef softq_t *q
        if not 0 <= level < SOFTINT_LEVELS:
            raise IndexError(f"no softint level {level}")
        q = &self.cpu.pyq[level]
        if q.head != q.tail:
            return self._take_python(q)
        return softint_next(self.cpu, level)

    def softint_is_pending(self, level: int) -> bool:
        if not 0 <= level < SOFTINT_LEVELS:
            raise IndexError(f"no softint level {level}")
        return (self.cpu.softq[level].head != self.cpu.softq[level].tail
                or self.cpu.pyq[level].head != self.cpu.pyq[level].tail)

    @property
    def soft_blocked(self) -> int:
        """Bit per softint level of which nothing may start here; written while the CPU is paused."""
        return self.cpu.soft_blocked

    @soft_blocked.setter
    def soft_blocked(self, value: int):
        self.cpu.soft_blocked = value

    # Work for Python handlers, left by the run loop.
    def python_softint(self) -> int:
        """Take the oldest handle, highest level first, that the run loop left for Python; -1 when there is none."""
        cdef int level
        cdef softq_t *q
        for level in range(SOFTINT_LEVELS - 1, -1, -1):
            if self.cpu.soft_blocked >> level & 1:
                continue
            q = &self.cpu.pyq[level]
            if q.head != q.tail:
                return self._take_python(q)
        return -1

    def python_vectors(self) -> list:
        """Take the hard interrupts that the run loop left for Python."""
        cdef uint32_t w, b
        out = []
        for w in range(VECTOR_WORDS):
            for b in range(64):
                if self.cpu.pyvec[w] >> b & 1:
                    out.append(64 * w + b)
            self.cpu.pyvec[w] = 0
        return out

    # Frames held.
    def punt_take(self, MbufVec mv not None) -> str:
        """Move the oldest run of punted frames of one kind and interface into an empty vector.

        Returns the kind ("input", "local", "transmit"; ``mv.rcvif`` is the interface), or "" when there is none.
        """
        cdef uint32_t kind = 0
        cdef mbuf_t *m
        if mv.vec.n:
            raise ValueError("the vector is not empty")
        while self.cpu.punt_head != self.cpu.punt_tail and mv.vec.n < VEC_MAX:
            m = self.cpu.punt[self.cpu.punt_head & (PUNT_SLOTS - 1)]
            if mv.vec.n == 0:
                kind = m.m_aux
                mv.vec.rcvif = m.m_rcvif
            elif m.m_aux != kind or m.m_rcvif != mv.vec.rcvif:
                break
            mv.vec.m[mv.vec.n] = m
            mv.vec.n += 1
            self.cpu.punt_head += 1
        return {PUNT_INPUT: "input", PUNT_LOCAL: "local", PUNT_TRANSMIT: "transmit"}.get(kind, "")

    @property
    def punt_len(self) -> int:
        """Frames on the punt ring."""
        return <uint32_t> (self.cpu.punt_tail - self.cpu.punt_head)

    @property
    def fwdq_len(self) -> int:
        """Frames on the bridge forwarding queue."""
        return <uint32_t> (self.cpu.fwdq_tail - self.cpu.fwdq_head)

    @property
    def is_idle(self) -> bool:
        """The run loop sleeps and nothing is pending for it or for Python."""
        cdef int level
        if ns_load_u32(&self.cpu.is_idle, ACQREL) == 0 or ns_load_u32(&self.cpu.python_posted, ACQREL):
            return False
        if self.intr_pending:
            return False
        for level in range(4):
            if ns_load_u64(&self.cpu.lapic.remote_soft[level], ACQREL):
                return False
        return True

    @property
    def counters(self) -> dict:
        return {"loops": ns_read_u64(&self.cpu.loops), "hardints": ns_read_u64(&self.cpu.hardints),
                "softints": ns_read_u64(&self.cpu.softints), "idles": ns_read_u64(&self.cpu.idles),
                "python": ns_read_u64(&self.cpu.gil_returns)}

    def __repr__(self):
        return f"<CpuBlock {self.index}: {ns_read_u64(&self.cpu.hardints)} interrupts>"
