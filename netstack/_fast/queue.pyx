"""RX and TX queues as objects: rings, buffers, locks, limits (paper §3.2.1, §5.3, §5.4).

Context: control plane (attach, stop, detach).  The data path uses ``rxq_t`` and ``txq_t`` of ``cpu.pxd``.
"""
cimport cython
from libc.stdint cimport uint32_t
from libc.stdlib cimport free

from netstack._fast.atomics cimport ns_read_u64, ns_read_u32, RELAXED, ns_count_u64, ns_store_u32, ACQREL
from netstack._fast.cpu cimport rx_is_ready
from netstack._fast.dring cimport desc_t, DESC_DD
from netstack._fast.ifqueue cimport ifq_init, ifq_destroy, ifq_len, ifq_get
from netstack._fast.ifnet cimport ifstat_t
from netstack._fast.intr cimport IntrSource
from netstack._fast.lines cimport own_lines
from netstack._fast.lock cimport spin_enter, spin_exit
from netstack._fast.mbuf cimport mbuf_t, m_get, m_of_data, m_freem, m_put, magazine_t, M_BCAST, M_MCAST


@cython.no_gc_clear              # what __dealloc__ gives back needs the pool: it may not be cleared away before
cdef class RxQueue:
    """Receive queue ``index`` of an interface with a ring of ``slots`` descriptors."""

    def __cinit__(self, IfnetBlock ifnet not None, MbufPool pool not None, index: int, slots: int = 256):
        self.ifnet = ifnet
        self.pool = pool
        self.ring = DescRing(slots)
        self.rxq = <rxq_t *> own_lines(sizeof(rxq_t))
        self.rxq.ifp = ifnet.ifp
        self.rxq.index = index
        self.rxq.ring = self.ring.ring
        self.rxq.limit = 256
        self.rxq.stopping = 1

    def __dealloc__(self):
        if self.rxq != NULL:
            self.drain()
            free(self.rxq)

    @property
    def index(self) -> int:
        return self.rxq.index

    @property
    def limit(self) -> int:
        """Frames one activation may take: 1, n, or the ring (paper §6.2)."""
        return self.rxq.limit

    @limit.setter
    def limit(self, value: int):
        if value < 1:
            raise ValueError("an activation takes at least one frame")
        ns_store_u32(&self.rxq.limit, value, RELAXED)

    @property
    def stopping(self) -> bool:
        return self.rxq.stopping != 0

    @stopping.setter
    def stopping(self, value: bool):
        spin_enter(&self.rxq.lock)
        ns_store_u32(&self.rxq.stopping, value, RELAXED)
        spin_exit(&self.rxq.lock)

    @property
    def softint(self) -> int:
        return self.rxq.softint

    @softint.setter
    def softint(self, value: int):
        self.rxq.softint = value

    @property
    def activations(self) -> int:
        return ns_read_u64(&self.rxq.activations)

    @property
    def frames(self) -> int:
        return ns_read_u64(&self.rxq.frames)

    @property
    def held(self) -> int:
        """Mbufs in the ring."""
        return self._filled()

    cdef uint32_t _filled(self) noexcept:
        return ns_read_u32(&self.rxq.ring.tail) - ns_read_u32(&self.rxq.ring.next)

    @property
    def is_ready(self) -> bool:
        """A received frame waits in the ring; without a ring (a host port) nobody knows: True."""
        return rx_is_ready(self.rxq)

    @property
    def ready(self) -> int:
        """Received frames the driver has not taken yet."""
        cdef uint32_t n = 0
        while n < self._filled() and self.rxq.ring.desc[(self.rxq.ring.next + n) & self.rxq.ring.mask].status & DESC_DD:
            n += 1
        return n

    def fill(self) -> int:
        """Give every empty slot a buffer; how many slots have one now (fewer than the ring: the pool is short)."""
        cdef magazine_t *mag = self.pool.pool.mag[self.pool.pool.nmag - 1]
        cdef mbuf_t *m
        cdef uint32_t at
        spin_enter(&self.pool.pool.control_lock)
        while self._filled() <= self.rxq.ring.mask:
            m = m_get(&self.pool.pool, mag)
            if m == NULL:
                break
            at = self.rxq.ring.tail & self.rxq.ring.mask
            self.rxq.ring.desc[at].addr = m.m_data
            self.rxq.ring.desc[at].status = 0
            ns_store_u32(&self.rxq.ring.tail, self.rxq.ring.tail + 1, ACQREL)
        spin_exit(&self.pool.pool.control_lock)
        return self._filled()

    def drain(self) -> int:
        """Take every buffer back to the pool (the device must be disabled); how many received frames were lost."""
        cdef magazine_t *mag
        cdef uint32_t at, lost = 0
        if self.pool is None:
            return 0
        mag = self.pool.pool.mag[self.pool.pool.nmag - 1]
        spin_enter(&self.pool.pool.control_lock)
        while self._filled():
            at = self.rxq.ring.next & self.rxq.ring.mask
            lost += self.rxq.ring.desc[at].status & DESC_DD
            m_put(&self.pool.pool, mag, m_of_data(self.rxq.ring.desc[at].addr))
            self.rxq.ring.desc[at].addr = NULL
            self.rxq.ring.desc[at].status = 0
            ns_store_u32(&self.rxq.ring.next, self.rxq.ring.next + 1, RELAXED)
        spin_exit(&self.pool.pool.control_lock)
        # the device starts again where the driver does: head and tail are 0 (RDH, RDT)
        ns_store_u32(&self.rxq.ring.tail, 0, RELAXED)
        ns_store_u32(&self.rxq.ring.next, 0, RELAXED)
        if self.rxq.hw != NULL:
            self.rxq.hw.head = 0
        return lost

    def set_intr(self, IntrSource source not None) -> None:
        """Interrupt source of this queue; its softint enables it again when the queue is empty."""
        self.intr = source
        self.rxq.intr = source.src


@cython.no_gc_clear              # what __dealloc__ gives back needs the pool: it may not be cleared away before
cdef class TxQueue:
    """Transmit queue ``index``: a ring of ``slots`` and its own if_snd of ``snd_maxlen`` frames."""

    def __cinit__(self, IfnetBlock ifnet not None, MbufPool pool not None, index: int, slots: int = 512,
                  snd_maxlen: int = 1024):
        self.ifnet = ifnet
        self.pool = pool
        self.ring = DescRing(slots)
        self.txq = <txq_t *> own_lines(sizeof(txq_t))
        self.txq.ifp = ifnet.ifp
        self.txq.index = index
        self.txq.ring = self.ring.ring
        self.txq.stopping = 1
        ifq_init(&self.txq.snd, snd_maxlen)

    def __dealloc__(self):
        if self.txq != NULL:
            if self.pool is not None:
                self.purge()
            ifq_destroy(&self.txq.snd)
            free(self.txq)

    @property
    def index(self) -> int:
        return self.txq.index

    @property
    def stopping(self) -> bool:
        return self.txq.stopping != 0

    @stopping.setter
    def stopping(self, value: bool):
        spin_enter(&self.txq.lock)
        ns_store_u32(&self.txq.stopping, value, RELAXED)
        spin_exit(&self.txq.lock)

    @property
    def softint(self) -> int:
        return self.txq.softint

    @softint.setter
    def softint(self, value: int):
        self.txq.softint = value

    @property
    def snd_len(self) -> int:
        """Frames in if_snd."""
        return ifq_len(&self.txq.snd)

    @property
    def snd_maxlen(self) -> int:
        return self.txq.snd.maxlen

    @property
    def in_ring(self) -> int:
        """Frames given to the device and not yet taken back."""
        return <uint32_t> (ns_read_u32(&self.txq.ring.tail) - ns_read_u32(&self.txq.ring.next))

    @property
    def is_full(self) -> bool:
        return ns_read_u32(&self.txq.is_full) != 0

    @property
    def handovers(self) -> int:
        """Bursts left to the holder of the lock."""
        return ns_read_u64(&self.txq.handovers)

    @property
    def lock_acquired(self) -> int:
        return ns_read_u64(&self.txq.lock.acquired)

    @property
    def lock_contended(self) -> int:
        return ns_read_u32(&self.txq.lock.contended)

    def purge(self) -> int:
        """Take everything back to the pool (the device must be disabled, the queue stopping).

        Returns the frames that were not sent; those the device has sent count as output.
        """
        cdef magazine_t *mag = self.pool.pool.mag[self.pool.pool.nmag - 1]
        cdef ifstat_t *stat = &self.txq.ifp.stat[self.pool.pool.nmag - 1]
        cdef desc_t *d
        cdef mbuf_t *m
        cdef uint32_t n = 0
        spin_enter(&self.txq.lock)
        spin_enter(&self.pool.pool.control_lock)
        while self.txq.ring.next != self.txq.ring.tail:
            d = &self.txq.ring.desc[self.txq.ring.next & self.txq.ring.mask]
            m = m_of_data(d.addr)
            if d.status & DESC_DD:
                ns_count_u64(&stat.opackets, 1)
                ns_count_u64(&stat.obytes, d.nbytes)
                ns_count_u64(&stat.omcasts, m.m_flags & (M_BCAST | M_MCAST) != 0)
            else:
                n += 1
            d.status = 0
            m_freem(&self.pool.pool, mag, m)
            ns_store_u32(&self.txq.ring.next, self.txq.ring.next + 1, RELAXED)
        ns_store_u32(&self.txq.ring.tail, 0, RELAXED)
        ns_store_u32(&self.txq.ring.next, 0, RELAXED)
        if self.txq.hw != NULL:
            self.txq.hw.head = self.txq.hw.timed = 0
        while ifq_get(&self.txq.snd, &m, 1):
            m_freem(&self.pool.pool, mag, m)
            n += 1
        ns_store_u32(&self.txq.is_full, 0, RELAXED)
        spin_exit(&self.pool.pool.control_lock)
        spin_exit(&self.txq.lock)
        return n

    def set_intr(self, IntrSource source not None) -> None:
        """Interrupt source that reports sent frames."""
        self.intr = source
        self.txq.intr = source.src
