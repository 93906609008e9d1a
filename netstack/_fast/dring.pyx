"""Descriptor rings as objects: the memory a driver and a device share (paper §3.2.1, §5).

Context: created by a driver at attach.
Limits: 8..4096 slots, a power of two.
"""
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free
from libc.string cimport memset

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **out, size_t alignment, size_t n) noexcept


cdef class DescRing:
    """A ring of ``slots`` 16-byte descriptors.  ValueError when ``slots`` is no power of two in 8..4096."""

    def __cinit__(self, slots: int):
        cdef void *memory = NULL
        if not 8 <= slots <= 4096 or slots & (slots - 1):
            raise ValueError(f"a ring has a power of two of slots, 8..4096, not {slots}")
        assert sizeof(desc_t) == 16
        if posix_memalign(&memory, 128, <size_t> slots * sizeof(desc_t)) != 0:
            raise MemoryError()
        memset(memory, 0, <size_t> slots * sizeof(desc_t))
        self.ring.desc = <desc_t *> memory
        self.ring.mask = slots - 1
        self.ring.tail = 0
        self.ring.next = 0

    def __dealloc__(self):
        free(self.ring.desc)

    @property
    def slots(self) -> int:
        return self.ring.mask + 1

    @property
    def address(self) -> int:
        """Bus address of the ring, as a driver writes it into the base registers."""
        return <uintptr_t> self.ring.desc
