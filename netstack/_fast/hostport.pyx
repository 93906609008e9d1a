"""Receive and transmit engines for AF_PACKET sockets and TAP descriptors (packet(7), tun(4), packet_mmap).

The Python side (``netstack.ports``) opens, configures and closes descriptors; an engine only moves frames.  A frame
longer than one mbuf is a chain.  Checksum and segmentation offload travel in ``m_vnet``, so that two hosts with default
offloads can talk across a bridge; ``offload.pxd`` does that work where an end cannot take it.

Context: the classes, control plane; the functions of ``hostrx.pxd`` and ``hosttx.pxd``, softint.
Errors:  a frame the host refuses is ``TX_ERROR``; an error that means the interface is gone or down is kept in
         ``error``, and frames are ``IF_DOWN`` until ``clear_error``.  What is lost on receive counts as received too.
"""
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from netstack._fast.atomics cimport ns_add_u64
from netstack._fast.cpu cimport rx_fn, start_fn
from netstack._fast.hostrx cimport packetrx_t, packet_rx, tap_rx, TAP_FRAME_MAX
from netstack._fast.hostsys cimport getsockopt, socklen_t, tpacket_stats_v3, PACKET_STATISTICS, SOL_PACKET_LEVEL
from netstack._fast.hosttx cimport hosttx_t, packet_start, tap_start, TX_BATCH
from netstack._fast.offload cimport VNET_BYTES
from netstack._fast.queue cimport RxQueue, TxQueue

import errno as _errno

BATCH_FRAMES = TX_BATCH
LONGEST_FRAME_BYTES = TAP_FRAME_MAX - VNET_BYTES


cdef class PacketRx:
    """Receive engine of an AF_PACKET socket with a TPACKET_V3 ring.

    Args:   fd -- socket with PACKET_VNET_HDR and the ring set up, owned by the caller.   memory -- its mapping.
            block_bytes -- as given to PACKET_RX_RING.
            offload -- False: open checksums are filled in and long frames cut here.
    Raises: ValueError -- the mapping is no whole number of blocks.
    """

    def __cinit__(self, fd: int, memory, block_bytes: int, offload: bool = True):
        memset(&self.rx, 0, sizeof(packetrx_t))
        self._view = memory
        if block_bytes <= 0 or self._view.shape[0] == 0 or self._view.shape[0] % block_bytes:
            raise ValueError(f"{self._view.shape[0]} bytes of ring are no blocks of {block_bytes}")
        self.rx.ring = &self._view[0]
        self.rx.block_bytes = block_bytes
        self.rx.nblocks = self._view.shape[0] // block_bytes
        self.rx.fd = fd
        self.rx.finish = not offload

    def bind_rx(self, RxQueue queue not None):
        """Serve this queue from now on; the queue keeps the engine alive."""
        queue.rxq.private = &self.rx
        queue.rxq.rx = <rx_fn> packet_rx
        queue.engine = self

    @property
    def fd(self) -> int:
        """Descriptor whose readiness is this queue's interrupt."""
        return self.rx.fd

    @property
    def error(self) -> int:
        """errno the socket reported (once: packet(7) forgets it), or 0."""
        return self.rx.error

    def clear_error(self):
        """Forget the error: the interface is back."""
        self.rx.error = 0

    @property
    def missed(self) -> int:
        """Frames the kernel dropped because the ring was full (tp_drops; each reading starts it from zero)."""
        cdef tpacket_stats_v3 stats
        cdef socklen_t width = sizeof(tpacket_stats_v3)
        if self.rx.ring != NULL and getsockopt(self.rx.fd, SOL_PACKET_LEVEL, PACKET_STATISTICS, &stats, &width) == 0:
            ns_add_u64(&self._missed, stats.tp_drops)
        return self._missed

    def close(self):
        """Let go of the mapping; the queue must have stopped.  The caller unmaps and closes the socket."""
        if self.rx.ring != NULL:
            self.missed                               # the last reading, before the socket goes
        self.rx.ring = NULL
        self.rx.gso.left = 0
        self._view = None


cdef class TapRx:
    """Receive engine of a TAP descriptor (non-blocking, IFF_NO_PI).

    Args: fd -- owned by the caller.   vnet -- frames are preceded by an offload header (IFF_VNET_HDR).
    """

    def __cinit__(self, fd: int, vnet: bool = True):
        self.rx.fd = fd
        self.rx.error = 0
        self.rx.vnet = VNET_BYTES if vnet else 0
        self.rx.spill = <uint8_t *> malloc(TAP_FRAME_MAX)
        if self.rx.spill == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.rx.spill)

    def bind_rx(self, RxQueue queue not None):
        """Serve this queue from now on; the queue keeps the engine alive."""
        queue.rxq.private = &self.rx
        queue.rxq.rx = <rx_fn> tap_rx
        queue.engine = self

    @property
    def fd(self) -> int:
        """Descriptor whose readiness is this queue's interrupt; -1 once closed."""
        return self.rx.fd

    @property
    def error(self) -> int:
        """errno of the last failed read, or 0."""
        return self.rx.error

    def clear_error(self):
        """Forget the error: the interface is back."""
        self.rx.error = 0

    @property
    def missed(self) -> int:
        """A TAP does not tell its descriptor what it dropped; the host counts it as the interface's tx_dropped."""
        return 0

    def close(self):
        """Read no more; the queue must have stopped.  The caller closes the descriptor."""
        self.rx.fd = -1


cdef class HostTx:
    """Transmit engine; one of its two kinds.

    Args: fd -- owned by the caller.   vnet -- the descriptor takes offload headers (PACKET_VNET_HDR, IFF_VNET_HDR).
    """

    def __cinit__(self, fd: int, vnet: bool = True):
        self.tx = <hosttx_t *> calloc(1, sizeof(hosttx_t))
        if self.tx == NULL:
            raise MemoryError()
        self.tx.fd = fd
        self.tx.vnet = VNET_BYTES if vnet else 0
        if not vnet:
            self.tx.linear = <uint8_t *> malloc(TAP_FRAME_MAX)
            if self.tx.linear == NULL:
                raise MemoryError()

    def __dealloc__(self):
        if self.tx != NULL:
            free(self.tx.linear)
            free(self.tx)

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
        """Calls repeated because the host had no room."""
        return self.tx.retries

    @property
    def calls(self) -> int:
        """System calls made to send."""
        return self.tx.calls

    def close(self):
        """Send no more; the queue must have stopped.  The caller closes the descriptor."""
        self.tx.fd = -1
        self.tx.error = self.tx.error or _errno.EBADF


cdef class PacketTx(HostTx):
    """Transmit engine of an AF_PACKET socket."""

    def bind_tx(self, TxQueue queue not None):
        """Serve this queue from now on; the queue keeps the engine alive."""
        queue.txq.private = self.tx
        queue.txq.start = <start_fn> packet_start
        queue.engine = self


cdef class TapTx(HostTx):
    """Transmit engine of a TAP descriptor."""

    def bind_tx(self, TxQueue queue not None):
        """Serve this queue from now on; the queue keeps the engine alive."""
        queue.txq.private = self.tx
        queue.txq.start = <start_fn> tap_start
        queue.engine = self
