"""if_snd for Python callers and tests; the kernels use the inlines of ``ifqueue.pxd`` (paper §2.1, §5.4).

A bounded FIFO under its own spin lock.  What does not fit is refused, not overwritten: the caller frees and counts it.
Context: any.
"""
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free

from netstack._fast.atomics cimport ns_read_u64
from netstack._fast.mbuf cimport m_freem, mbufpool_t


cdef int ifq_init(ifqueue_t *q, object frames) except -1:
    cdef uint32_t size = 1, maxlen
    if not 1 <= frames <= 65535:
        raise ValueError(f"a send queue holds 1..65535 frames, not {frames}")
    maxlen = frames
    while size < maxlen:
        size <<= 1
    q.ring = <mbuf_t **> calloc(size, sizeof(void *))
    if q.ring == NULL:
        raise MemoryError()
    q.mask = size - 1
    q.maxlen = maxlen
    q.head = q.tail = 0
    q.enqueued = q.dropped = 0
    return 0


cdef void ifq_destroy(ifqueue_t *q) noexcept:
    free(q.ring)
    q.ring = NULL


cdef class IfQueue:
    """A send queue of at most ``maxlen`` frames (1..65535) from one pool."""

    def __cinit__(self, MbufPool owner not None, maxlen: int = 256):
        self.owner = owner
        ifq_init(&self.q, maxlen)

    def __dealloc__(self):
        cdef mbuf_t *m
        cdef mbufpool_t *pool
        if self.owner is not None and self.q.ring != NULL:
            pool = &self.owner.pool
            spin_enter(&pool.control_lock)
            while ifq_get(&self.q, &m, 1):
                m_freem(pool, pool.mag[pool.nmag - 1], m)
            spin_exit(&pool.control_lock)
        ifq_destroy(&self.q)

    def put(self, MbufVec mv not None) -> int:
        """Move frames of ``mv`` in, in order; what did not fit stays in ``mv``.  How many went in."""
        cdef uint32_t i, done
        done = ifq_put(&self.q, mv.vec.m, mv.vec.n)
        for i in range(done, mv.vec.n):
            mv.vec.m[i - done] = mv.vec.m[i]
        mv.vec.n -= done
        return done

    def get(self, MbufVec mv not None, n: int = 256) -> int:
        """Take up to ``n`` frames to the end of ``mv``; how many."""
        cdef uint32_t room = 256 - mv.vec.n
        cdef uint32_t want = min(max(n, 0), room)
        cdef uint32_t done = ifq_get(&self.q, &mv.vec.m[mv.vec.n], want)
        mv.vec.n += done
        return done

    def __len__(self):
        return ifq_len(&self.q)

    @property
    def maxlen(self) -> int:
        return self.q.maxlen

    @property
    def enqueued(self) -> int:
        return ns_read_u64(&self.q.enqueued)

    @property
    def dropped(self) -> int:
        return ns_read_u64(&self.q.dropped)

    def set_counters(self, head: int) -> None:
        """Start the free-running indices at ``head`` (tests of the wrap at 2**32); the queue must be empty."""
        if self.q.head != self.q.tail:
            raise ValueError("the queue is not empty")
        self.q.head = self.q.tail = head & 0xFFFFFFFF
