"""pcq for Python callers: a queue of objects, and a queue of frames (NetBSD pcq(9), pktqueue(9)).

Context: ``put`` any; ``get`` and ``peek`` one consumer at a time, which its callers see to.
Limits:  1 to 65535 items.  All of them fit: NetBSD's ``pcq_create(n)`` keeps one slot empty and holds n - 1, which its
         manual page does not say.
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memmove

from netstack._fast.defs cimport VEC_MAX
from netstack._fast.lines cimport own_lines
from netstack._fast.lock cimport spin_enter, spin_exit
from netstack._fast.mbuf cimport m_freem, mbuf_t, MbufPool, MbufVec

MAXITEMS_LIMIT = 65535


cdef class Pcq:
    """What both kinds share.  ``start`` is where the 32-bit indices begin.

    Raises ValueError for ``maxitems`` out of range.
    """

    def __cinit__(self, *args, **options):
        self.q = NULL

    cdef uint32_t _setup(self, maxitems, start) except 0:
        cdef uint32_t slots = 1
        if not 1 <= maxitems <= MAXITEMS_LIMIT:
            raise ValueError(f"maxitems must be 1..{MAXITEMS_LIMIT}, not {maxitems}")
        while slots < <uint32_t> maxitems:
            slots <<= 1
        self.q = <pcq_t *> own_lines(sizeof(pcq_t))
        self.q.maxitems = maxitems
        self.q.mask = slots - 1
        self.q.head = self.q.tail = start & 0xFFFFFFFF
        self.q.slot = <void **> calloc(slots, sizeof(void *))
        if self.q.slot == NULL:
            raise MemoryError()
        return slots

    @property
    def maxitems(self) -> int:
        """Items it can hold."""
        return self.q.maxitems

    @property
    def head(self) -> int:
        """Index of the next item to take: all items taken, modulo 2**32."""
        return ns_load_u32(&self.q.head, ACQREL)

    @property
    def tail(self) -> int:
        """Index of the next item to come."""
        return ns_load_u32(&self.q.tail, ACQREL)

    def __len__(self):
        return pcq_len(self.q)

    def __repr__(self):
        return f"<{type(self).__name__} {len(self)} of {self.maxitems}>"


cdef class ObjectPcq(Pcq):
    """A queue of Python objects other than None; it holds a reference to each."""

    def __init__(self, maxitems: int, start: int = 0):
        if self.q == NULL:
            self._setup(maxitems, start)

    def __dealloc__(self):
        cdef void *item
        if self.q != NULL:
            if self.q.slot != NULL:
                item = pcq_get(self.q)
                while item != NULL:
                    Py_DECREF(<object> item)
                    item = pcq_get(self.q)
                free(self.q.slot)
            free(self.q)

    def put(self, item: object) -> bool:
        """Append; False when it is full."""
        if item is None:
            raise ValueError("None is no item: it is how get() says that there is none")
        Py_INCREF(item)
        if pcq_put(self.q, <PyObject *> item):
            return True
        Py_DECREF(item)
        return False

    def get(self) -> object:
        """Take the oldest item, or None."""
        cdef void *item = pcq_get(self.q)
        if item == NULL:
            return None
        taken = <object> item
        Py_DECREF(taken)
        return taken

    def peek(self) -> object:
        """The oldest item, which stays, or None."""
        cdef void *item = pcq_peek(self.q)
        return None if item == NULL else <object> item


cdef class FramePcq(Pcq):
    """A queue of frames between CPUs; what is left when it dies goes back to the pool."""

    def __init__(self, pool: MbufPool, maxitems: int, start: int = 0):
        if self.q == NULL:
            self._setup(maxitems, start)
            self.pool = pool

    def __dealloc__(self):
        cdef mbuf_t *m
        cdef MbufPool pool
        if self.q != NULL:
            if self.q.slot != NULL:
                pool = self.pool
                m = <mbuf_t *> pcq_get(self.q)
                if m != NULL:
                    spin_enter(&pool.pool.control_lock)
                    while m != NULL:
                        m_freem(&pool.pool, pool.pool.mag[pool.pool.nmag - 1], m)
                        m = <mbuf_t *> pcq_get(self.q)
                    spin_exit(&pool.pool.control_lock)
                free(self.q.slot)
            free(self.q)

    def put(self, MbufVec mv not None) -> int:
        """Append the frames of a vector, in order, until the queue is full; how many.  The rest stays in ``mv``."""
        cdef uint32_t n = 0, left
        if mv.owner is not self.pool:
            raise ValueError("the vector's mbufs are of another pool")
        with nogil:
            while n < mv.vec.n and pcq_put(self.q, mv.vec.m[n]):
                n += 1
            left = mv.vec.n - n
            if n and left:
                memmove(&mv.vec.m[0], &mv.vec.m[n], left * sizeof(void *))
                memmove(&mv.vec.dst[0], &mv.vec.dst[n], left * sizeof(mv.vec.dst[0]))
                memmove(&mv.vec.src[0], &mv.vec.src[n], left * sizeof(mv.vec.src[0]))
            mv.vec.n = left
        return n

    def get(self, MbufVec mv not None) -> int:
        """Move the oldest run of frames of one interface into an empty vector; how many."""
        cdef mbuf_t *m
        if mv.vec.n:
            raise ValueError("the vector is not empty")
        if mv.owner is not self.pool:
            raise ValueError("the vector takes mbufs of another pool")
        while mv.vec.n < VEC_MAX:
            m = <mbuf_t *> pcq_peek(self.q)
            if m == NULL or (mv.vec.n and m.m_rcvif != mv.vec.rcvif):
                break
            mv.vec.rcvif = m.m_rcvif
            mv.vec.m[mv.vec.n] = <mbuf_t *> pcq_get(self.q)
            mv.vec.n += 1
        return mv.vec.n
