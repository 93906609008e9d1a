"""Descriptor rings: what driver and device share, and nothing else (paper §3.2.1, §5; Intel 82576 datasheet §7.1,
§7.2).

A descriptor carries the address of the frame's bytes, never an mbuf.  Indices run freely; ``& mask`` makes a slot.
``tail`` is the doorbell: written by the driver, read by the device.  ``done`` bits are written by the device.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    DESC_DD = 1                  # descriptor done
    DESC_EOP = 2                 # last descriptor of its frame

cdef struct desc_t:
    uint8_t *addr
    uint32_t nbytes
    uint32_t status              # DESC_*; high half: low 16 bits of the RSS hash (receive)

cdef struct dring_t:
    desc_t *desc
    uint32_t mask                # ring size - 1
    uint32_t tail                # driver: next slot it will give to the device (doorbell)
    uint32_t next                # driver: next slot it will take back
    uint32_t pad

cdef class DescRing:
    cdef dring_t ring
