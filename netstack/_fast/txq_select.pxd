"""CPU to TX queue (paper §5.4)."""
from libc.stdint cimport uint8_t, uint32_t


cdef inline uint8_t txq_round_robin(uint32_t cpu_index, uint32_t ntxq) noexcept nogil:
    """The paper's list: CPU 0..7 on 4 queues use 0,1,2,3,0,1,2,3."""
    return <uint8_t> (cpu_index % ntxq)
