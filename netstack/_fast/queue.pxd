"""Python handles of RX and TX queues; the structures are in ``cpu.pxd``."""
from libc.stdint cimport uint32_t, uint64_t
from netstack._fast.cpu cimport rxq_t, txq_t
from netstack._fast.dring cimport DescRing
from netstack._fast.mbuf cimport MbufPool
from netstack._fast.ifnet cimport IfnetBlock

cdef class RxQueue:
    cdef rxq_t *rxq
    cdef readonly IfnetBlock ifnet
    cdef readonly MbufPool pool
    cdef readonly DescRing ring
    cdef public object engine    # HwRxQueue, or the host port's object
    cdef public object intr
    cdef uint32_t _filled(self) noexcept

cdef class TxQueue:
    cdef txq_t *txq
    cdef readonly IfnetBlock ifnet
    cdef readonly MbufPool pool
    cdef readonly DescRing ring
    cdef public object engine
    cdef public object intr
