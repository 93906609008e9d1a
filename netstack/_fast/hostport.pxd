"""Engines of real-world ports: what turns a host descriptor into receive and transmit functions (packet(7), tun(4)).

An engine belongs to one queue: its receive side runs under the lock of that RX queue, its transmit side under that of
the TX queue, so nothing here has a lock of its own.  Closing is for the control plane, after the queue has stopped.
"""
from libc.stdint cimport uint8_t, uint64_t
from netstack._fast.hostrx cimport packetrx_t, taprx_t
from netstack._fast.hosttx cimport hosttx_t

cdef class PacketRx:
    cdef packetrx_t rx
    cdef uint8_t[::1] _view
    cdef uint64_t _missed

cdef class TapRx:
    cdef taprx_t rx

cdef class HostTx:
    cdef hosttx_t *tx

cdef class PacketTx(HostTx):
    pass

cdef class TapTx(HostTx):
    pass
