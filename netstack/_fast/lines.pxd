"""Memory on cache lines of its own: what one CPU writes must not lie beside what another writes."""
from libc.string cimport memset

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **out, size_t alignment, size_t n) noexcept


cdef inline void *own_lines(size_t nbytes) except NULL:
    """Zeroed memory that shares no line, nor the neighbour line that is fetched with it, with anybody; free() it."""
    cdef void *memory = NULL
    nbytes = (nbytes + 127) & ~(<size_t> 127)
    if posix_memalign(&memory, 128, nbytes) != 0:
        raise MemoryError()
    memset(memory, 0, nbytes)
    return memory
