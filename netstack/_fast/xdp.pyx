"""Receive and transmit engines for AF_XDP sockets (Linux Documentation/networking/af_xdp.rst).

The Python side (``netstack.ports.af_xdp``) makes the socket, registers the memory, maps the rings and loads the
program; an engine only moves frames.

Context: the classes, control plane; the functions of ``xdpring.pxd``, softint.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from netstack._fast.atomics cimport ns_store_u32, ACQREL
from netstack._fast.cpu cimport rx_fn, start_fn
from netstack._fast.queue cimport RxQueue, TxQueue
from netstack._fast.xdpring cimport xdprx_t, xdptx_t, xdpring_t, xdp_rx, xdp_start, XDP_LINEAR_MAX

import errno as _errno

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t n, int prot, int flags, int fd, long offset) noexcept
    int munmap(void *addr, size_t n) noexcept
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_POPULATE


cdef class XdpMemory:
    """Page-aligned memory of frames (the UMEM of a socket): ``chunks`` times ``chunk_bytes``, a power of two.

    Raises: MemoryError.
    """

    def __cinit__(self, chunks: int, chunk_bytes: int):
        if chunk_bytes < 2048 or chunk_bytes & (chunk_bytes - 1) or chunks < 2:
            raise ValueError("chunks are at least two, of 2048 bytes or a larger power of two")
        self.nbytes = <size_t> chunks * <size_t> chunk_bytes
        self.base = <uint8_t *> mmap(NULL, self.nbytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
        if self.base == <uint8_t *> <uintptr_t> -1:
            self.base = NULL
            raise MemoryError()

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.nbytes)

    @property
    def address(self) -> int:
        """Where it lies, for XDP_UMEM_REG."""
        return <uintptr_t> self.base


cdef int _ring(xdpring_t *ring, view, offsets, uint32_t entries, uint32_t entry_bytes) except -1:
    """Find the parts of a mapped ring; ``offsets`` are producer, consumer and descriptors."""
    cdef uint8_t[::1] memory = view
    producer, consumer, desc = offsets
    if desc + entries * entry_bytes > memory.shape[0] or entries & (entries - 1):
        raise ValueError("the mapping is shorter than its ring, or the ring is no power of two")
    ring.producer = <uint32_t *> &memory[producer]
    ring.consumer = <uint32_t *> &memory[consumer]
    ring.desc = &memory[desc]
    ring.mask = entries - 1
    ring.next = 0
    return 0


cdef class XdpRx:
    """Receive engine of one socket.

    Args: fd -- owned by the caller.   memory -- registered with it.   chunk_bytes -- of that memory.
          rx, fill -- (mapping, (producer, consumer, descriptors), entries) of each ring.
          first, count -- the chunks that belong to receiving; as many as the fill ring has entries at most.
    """

    def __cinit__(self, fd: int, XdpMemory memory not None, chunk_bytes: int, rx, fill, first: int, count: int):
        cdef uint64_t *addresses
        memset(&self.rx, 0, sizeof(xdprx_t))
        self.rx.fd = fd
        self._memory = memory
        self._maps = (rx[0], fill[0])
        _ring(&self.rx.rx, rx[0], rx[1], rx[2], 16)
        _ring(&self.rx.fill, fill[0], fill[1], fill[2], 8)
        if count > fill[2] or <size_t> (first + count) * <size_t> chunk_bytes > memory.nbytes:
            raise ValueError("more chunks than the fill ring or the memory has")
        self.rx.chunk_mask = ~(<uint64_t> chunk_bytes - 1)
        addresses = <uint64_t *> self.rx.fill.desc
        for i in range(count):
            addresses[i] = <uint64_t> (first + i) * chunk_bytes
        self.rx.fill.next = count
        ns_store_u32(self.rx.fill.producer, self.rx.fill.next, ACQREL)
        self.rx.umem = memory.base

    def bind_rx(self, RxQueue queue not None):
        """Serve this queue from now on; the queue keeps the engine alive."""
        queue.rxq.private = &self.rx
        queue.rxq.rx = <rx_fn> xdp_rx
        queue.engine = self

    @property
    def fd(self) -> int:
        """Descriptor whose readiness is this queue's interrupt."""
        return self.rx.fd

    @property
    def error(self) -> int:
        return self.rx.error

    def clear_error(self):
        """Forget the error: the interface is back."""
        self.rx.error = 0

    def close(self):
        """Let go of rings and memory; the queue must have stopped.  The caller unmaps and closes the socket."""
        self.rx.umem = NULL
        self._maps = None


cdef class XdpTx:
    """Transmit engine of one socket; arguments as ``XdpRx``."""

    def __cinit__(self, fd: int, XdpMemory memory not None, chunk_bytes: int, tx, comp, first: int, count: int):
        self.tx = <xdptx_t *> calloc(1, sizeof(xdptx_t))
        if self.tx == NULL:
            raise MemoryError()
        self.tx.fd = fd
        self._memory = memory
        self._maps = (tx[0], comp[0])
        _ring(&self.tx.tx, tx[0], tx[1], tx[2], 16)
        _ring(&self.tx.comp, comp[0], comp[1], comp[2], 8)
        if count > min(tx[2], comp[2]) or <size_t> (first + count) * <size_t> chunk_bytes > memory.nbytes:
            raise ValueError("more chunks than a ring or the memory has")
        self.tx.umem = memory.base
        self.tx.chunk_bytes = chunk_bytes
        self.tx.chunk = <uint64_t *> calloc(count, sizeof(uint64_t))
        self.tx.linear = <uint8_t *> malloc(XDP_LINEAR_MAX)
        if self.tx.chunk == NULL or self.tx.linear == NULL:
            raise MemoryError()
        for i in range(count):
            self.tx.chunk[i] = <uint64_t> (first + i) * chunk_bytes
        self.tx.nfree = count

    def __dealloc__(self):
        if self.tx != NULL:
            free(self.tx.chunk)
            free(self.tx.linear)
            free(self.tx)

    def bind_tx(self, TxQueue queue not None):
        """Serve this queue from now on; the queue keeps the engine alive."""
        queue.txq.private = self.tx
        queue.txq.start = <start_fn> xdp_start
        queue.engine = self

    @property
    def fd(self) -> int:
        """Descriptor frames are sent to; -1 once closed."""
        return self.tx.fd

    @property
    def error(self) -> int:
        """errno that took the port down, or 0."""
        return self.tx.error

    def clear_error(self):
        """Forget the error: the interface is back."""
        self.tx.error = 0

    def set_down(self, error: int):
        """Send nothing more until ``clear_error``; frames are dropped as IF_DOWN."""
        self.tx.error = error

    @property
    def retries(self) -> int:
        """Calls that made no progress."""
        return self.tx.retries

    @property
    def calls(self) -> int:
        """System calls made to send."""
        return self.tx.calls

    @property
    def free_chunks(self) -> int:
        """Chunks that are not on their way."""
        return self.tx.nfree

    def close(self):
        """Send no more; the queue must have stopped.  The caller closes the descriptor."""
        self.tx.fd = -1
        self.tx.error = self.tx.error or _errno.EBADF
        self._maps = None
