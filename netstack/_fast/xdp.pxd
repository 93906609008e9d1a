"""Engines of AF_XDP ports; see ``xdp.pyx``."""
from libc.stdint cimport uint8_t, uint64_t
from netstack._fast.xdpring cimport xdprx_t, xdptx_t

cdef class XdpMemory:
    cdef uint8_t *base
    cdef readonly size_t nbytes

cdef class XdpRx:
    cdef xdprx_t rx
    cdef XdpMemory _memory
    cdef object _maps

cdef class XdpTx:
    cdef xdptx_t *tx
    cdef XdpMemory _memory
    cdef object _maps
