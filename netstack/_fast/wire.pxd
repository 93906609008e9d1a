"""The device's half of the data path: what a NIC does with descriptors, and the cable it hangs on (paper §6.1).

Nothing here knows of mbufs, drivers or interfaces: a receive engine copies frames into the addresses it finds in
descriptors, a transmit engine reads them from there.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from netstack._fast.dring cimport desc_t
from netstack._fast.intr cimport intrsrc_t, IntrSource
from netstack._fast.lock cimport spin_t

cdef struct cframe_t:            # a frame on the cable
    cframe_t *next
    uint32_t nbytes
    uint16_t hash
    uint16_t pad
    uint8_t data[1]

cdef struct fifo_t:              # frames on their way in one direction
    spin_t lock                  # guards all below
    cframe_t *first
    cframe_t *last
    uint32_t n
    uint32_t limit
    uint64_t passed              # frames ever put in
    uint64_t refused             # frames refused because the limit was reached

cdef struct gen_t:               # a paced source: the far end of the cable as a traffic generator
    uint8_t *header              # nheaders blocks of 16 bytes: Ethernet header and two bytes more
    uint32_t nheaders
    uint32_t at
    uint32_t nbytes              # frame length without FCS
    uint32_t burst_max           # frames it may be behind before it counts itself late instead of sending
    double interval_ns           # 0: as fast as descriptors come
    double next_ns               # when the next frame is due
    uint64_t stop_ns             # no frame is due at or after this
    uint64_t sent                # frames offered to the NIC
    uint64_t late                # frames the generator itself failed to offer in time
    uint64_t looked_ns           # when it was last given a chance to send
    uint64_t paused              # frames that fell due while nobody gave it one: the host ran other work

cdef struct hwrx_t:              # receive engine of one queue
    spin_t lock                  # guards the engine: sender threads and the driver's doorbell meet here
    desc_t *desc
    uint32_t *tail               # doorbell (the driver's ring.tail)
    uint32_t mask
    uint32_t head                # next descriptor to fill; free-running
    uint32_t enabled
    uint32_t buffer_bytes        # room behind each address
    uint64_t received
    uint64_t missed              # frames lost for want of a descriptor
    uint64_t oversize            # frames longer than buffer_bytes
    uint64_t generated           # frames received that a generator made
    fifo_t *cable
    gen_t *gen
    intrsrc_t *intr

cdef struct txport_t:            # what the transmit queues of one NIC share: the cable's other direction
    fifo_t *fifo
    spin_t lock                  # the serializer: TX queues take turns
    uint32_t counting            # 1: count and forget (a traffic sink), 0: keep for recv
    uint32_t pad
    double ns_per_byte           # 0: the wire takes no time
    double busy_until_ns
    uint64_t lost                # frames the far end had no room for

cdef struct hwtx_t:              # transmit engine of one queue
    spin_t lock
    desc_t *desc
    uint32_t *tail
    uint32_t mask
    uint32_t head                # next descriptor to send
    uint32_t timed               # next descriptor that has no finish time yet
    uint32_t enabled
    uint64_t frames
    uint64_t nbytes
    uint64_t counted             # frames that a counting far end took
    double *finish_ns            # per slot; used when the wire has a rate
    txport_t *port
    intrsrc_t *intr

cdef uint32_t hwrx_run(hwrx_t *hw, uint64_t now_ns) noexcept nogil
cdef uint32_t hwtx_run(hwtx_t *hw, uint64_t now_ns) noexcept nogil

cdef class Cable:
    cdef fifo_t fifo

cdef class Generator:
    cdef gen_t *gen

cdef class HwRxQueue:
    cdef hwrx_t *hw
    cdef readonly object queue
    cdef Cable _cable
    cdef Generator _gen
    cdef IntrSource _intr

cdef class TxPort:
    cdef txport_t *port
    cdef readonly Cable cable

cdef class HwTxQueue:
    cdef hwtx_t *hw
    cdef readonly object queue
    cdef readonly TxPort port
    cdef IntrSource _intr
