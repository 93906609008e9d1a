"""Mbuf pool with per-CPU magazines, and packet vectors, for Python callers (paper §2.1; NetBSD pool_cache(9)).

The pool is one slab.  Each CPU takes from and gives to its own magazine without a lock; half magazines move through a
depot under one spin lock.  Objects of this module are cold edges: the compiled loop uses the inlines of ``mbuf.pxd``.

Context: ``MbufPool`` any.  An ``MbufVec`` belongs to one CPU (or to no CPU: index ``ncpu``, for control threads).
Limits: ``VEC_MAX`` frames in a vector; a frame longer than 2062 bytes is a chain.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import errno as _errno

from netstack._fast.lines cimport own_lines

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset) noexcept
    int munmap(void *addr, size_t length) noexcept
    int madvise(void *addr, size_t length, int advice) noexcept
    void *MAP_FAILED
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MADV_HUGEPAGE

DATA_BYTES = MBUF_DATA_BYTES
STRIDE_BYTES = MBUF_STRIDE
BURST_MAX = VEC_MAX
assert sizeof(mbuf_t) == MBUF_STRIDE, "mbuf_t has grown holes"


cdef class MbufPool:
    """``nmbufs`` mbufs for ``ncpu`` CPUs.

    Raises OSError(ENOMEM) when the slab cannot be mapped, ValueError for sizes out of range.
    """

    def __cinit__(self, nmbufs: int, ncpu: int):
        cdef uint32_t i, cap
        if not 1 <= nmbufs <= 1 << 24:
            raise ValueError(f"nmbufs must be 1..{1 << 24}, not {nmbufs}")
        if not 1 <= ncpu <= CPU_MAX:
            raise ValueError(f"ncpu must be 1..{CPU_MAX}, not {ncpu}")
        memset(&self.pool, 0, sizeof(mbufpool_t))
        self.slab_bytes = <size_t> nmbufs * MBUF_STRIDE
        self.pool.slab = <uint8_t *> mmap(NULL, self.slab_bytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *> self.pool.slab == MAP_FAILED:
            self.pool.slab = NULL
            raise OSError(_errno.ENOMEM, f"cannot map {self.slab_bytes} bytes for {nmbufs} mbufs")
        madvise(self.pool.slab, self.slab_bytes, MADV_HUGEPAGE)
        self.pool.nmbufs = nmbufs
        self.pool.nmag = ncpu + 1
        self.pool.depot = <mbuf_t **> malloc((<size_t> nmbufs + MAG_MAX) * sizeof(void *))
        if self.pool.depot == NULL:
            raise MemoryError()
        # A magazine must hold more than a burst or every burst goes to the depot; it must not let few CPUs hoard
        # a small pool either.
        cap = nmbufs // (4 * (ncpu + 1))
        cap = MAG_MAX if cap > MAG_MAX else (8 if cap < 8 else cap & ~1)
        for i in range(ncpu + 1):
            self.pool.mag[i] = <magazine_t *> own_lines(sizeof(magazine_t))
            self.pool.mag[i].cap = cap
            self.pool.mag[i].id = i
        for i in range(nmbufs):
            self.pool.depot[i] = <mbuf_t *> (self.pool.slab + <size_t> (nmbufs - 1 - i) * MBUF_STRIDE)
            if NS_CHECKED:
                self.pool.depot[i].m_state = M_FREE
                m_poison(self.pool.depot[i])
        self.pool.depot_n = nmbufs
        ns_poison(self.pool.slab, self.slab_bytes)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.pool.nmag):
            free(self.pool.mag[i])
        free(self.pool.depot)
        if self.pool.slab != NULL:
            ns_unpoison(self.pool.slab, self.slab_bytes)
            munmap(self.pool.slab, self.slab_bytes)

    @property
    def nmbufs(self) -> int:
        return self.pool.nmbufs

    @property
    def ncpu(self) -> int:
        return self.pool.nmag - 1

    @property
    def free_count(self) -> int:
        """Mbufs in the depot and in all magazines.  Exact only while no CPU runs."""
        cdef uint32_t i
        total = self.pool.depot_n
        for i in range(self.pool.nmag):
            total += self.pool.mag[i].n
        return total

    @property
    def failures(self) -> int:
        """Allocations that found nothing."""
        cdef uint32_t i
        return sum([self.pool.mag[i].failures for i in range(self.pool.nmag)])

    def cached(self, cpu: int) -> int:
        """Mbufs in the magazine of one CPU (``ncpu`` for control threads)."""
        if not 0 <= cpu < <int> self.pool.nmag:
            raise IndexError(f"no CPU {cpu}")
        return self.pool.mag[cpu].n

    def __repr__(self):
        return f"<MbufPool {self.free_count} of {self.nmbufs} free, {self.ncpu} CPUs>"


cdef MbufVec vec_for(MbufPool owner, uint32_t cpu):
    cdef MbufVec mv = MbufVec.__new__(MbufVec, owner, cpu)
    return mv


@cython.no_gc_clear              # what __dealloc__ gives back needs the pool: it may not be cleared away before
cdef class MbufVec:
    """A packet vector: up to 256 frames of one receive interface and queue.

    ``cpu`` is the CPU whose magazine serves it; ``pool.ncpu`` for a control thread.  A stage that gets a vector
    consumes
    it: on return ``len(mv) == 0``.  What is left when the object dies goes back to the pool.
    """

    def __cinit__(self, MbufPool owner not None, cpu: int):
        if not 0 <= cpu < <int> owner.pool.nmag:
            raise IndexError(f"no CPU {cpu}")
        self.owner = owner
        self.cpu = cpu
        self.mag = owner.pool.mag[cpu]
        self.vec = <pktvec_t *> malloc(sizeof(pktvec_t))
        if self.vec == NULL:
            raise MemoryError()
        self.vec.n = 0
        self.vec.rcvif = 0
        self.vec.queue = 0
        self.vec.map = NULL
        self.vec.out_ports = 0

    def __dealloc__(self):
        cdef uint32_t i
        if self.vec != NULL:
            if self.vec.n:
                spin_enter(&self.owner.pool.control_lock)
                for i in range(self.vec.n):
                    m_freem(&self.owner.pool, self.owner.pool.mag[self.owner.pool.nmag - 1], self.vec.m[i])
                spin_exit(&self.owner.pool.control_lock)
            free(self.vec)

    def __len__(self):
        return self.vec.n

    @property
    def rcvif(self) -> int:
        """Index of the receive interface."""
        return self.vec.rcvif

    @rcvif.setter
    def rcvif(self, value: int):
        self.vec.rcvif = value

    @property
    def queue(self) -> int:
        return self.vec.queue

    @queue.setter
    def queue(self, value: int):
        self.vec.queue = value

    def append(self, frame) -> bool:
        """Copy one frame (any C-contiguous buffer of bytes) into a new mbuf.

        False when the pool is empty; ValueError when the vector is full.
        """
        cdef const uint8_t[::1] view = memoryview(frame).cast("B")
        cdef mbuf_t *m
        cdef uint8_t none = 0
        cdef bint control = self.cpu == self.owner.pool.nmag - 1
        if self.vec.n == VEC_MAX:
            raise ValueError(f"a packet vector holds {VEC_MAX} frames")
        if control:
            spin_enter(&self.owner.pool.control_lock)
        m = m_from_bytes(&self.owner.pool, self.mag, &view[0] if view.shape[0] else &none, <uint32_t> view.shape[0])
        if control:
            spin_exit(&self.owner.pool.control_lock)
        if m == NULL:
            return False
        m.m_rcvif = self.vec.rcvif
        self.vec.m[self.vec.n] = m
        self.vec.n += 1
        return True

    def frames(self) -> list:
        """Copies of the frames, as bytes, in order."""
        cdef uint32_t i
        return [_bytes_of(self.vec.m[i]) for i in range(self.vec.n)]

    def lengths(self) -> list:
        """Length of each frame in bytes."""
        cdef uint32_t i
        return [self.vec.m[i].m_pktlen for i in range(self.vec.n)]

    def clear(self) -> int:
        """Give all frames back to the pool; how many there were."""
        cdef uint32_t i, n = self.vec.n
        cdef bint control = self.cpu == self.owner.pool.nmag - 1
        if control:
            spin_enter(&self.owner.pool.control_lock)
        for i in range(n):
            m_freem(&self.owner.pool, self.mag, self.vec.m[i])
        if control:
            spin_exit(&self.owner.pool.control_lock)
        self.vec.n = 0
        return n

    def __repr__(self):
        return f"<MbufVec {self.vec.n} frames, interface {self.vec.rcvif} queue {self.vec.queue}, CPU {self.cpu}>"


cdef bytes _bytes_of(mbuf_t *m):
    cdef bytes out = b"" if m.m_pktlen == 0 else bytes(m.m_pktlen)
    cdef uint8_t *to = out
    if m.m_pktlen:
        m_copydata(m, to)
    return out
