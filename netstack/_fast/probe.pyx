"""Yardsticks for benchmarks: what this processor does without any network code.

Context: benchmarks, any thread; the GIL is released while they run.
"""
from libc.stdint cimport uint32_t, uint64_t

from netstack._fast.dring cimport desc_t, DescRing, DESC_DD
from netstack._fast.etherhdr cimport ether_dst, ether_src_type
from netstack._fast.mbuf cimport MbufPool, MBUF_STRIDE, MBUF_DATA_OFFSET

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *ts) noexcept
    enum:
        CLOCK_MONOTONIC

cdef extern from *:
    """
    static inline uint64_t alu_step(uint64_t x) {
        x ^= x << 13; x ^= x >> 7; x ^= x << 17;
        __asm__ volatile("" : "+r"(x));
        return x;
    }
    """
    uint64_t alu_step(uint64_t x) noexcept nogil


cdef uint64_t now() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <uint64_t> ts.tv_sec * 1000000000 + ts.tv_nsec


def alu(loops: int) -> int:
    """Nanoseconds for ``loops`` rounds of dependent register arithmetic: touches no memory."""
    cdef uint64_t n = loops, _i, x = 88172645463325252, start, end
    with nogil:
        start = now()
        for _i in range(n):
            x = alu_step(x)
        end = now()
    return end - start


def roofline(MbufPool pool not None, DescRing ring not None, n: int, rounds: int) -> int:
    """Nanoseconds for the least any bridge has to do: per frame, read both addresses of one of the first ``n`` mbufs
    and write one 16-byte descriptor; ``rounds`` times over.  The pool must not be in use by anybody else.
    """
    cdef uint32_t count = n, i, mask = ring.ring.mask
    cdef uint64_t _r, total = rounds, start, end, sink = 0
    cdef unsigned char *data
    cdef desc_t *d
    if not 1 <= n <= pool.nmbufs:
        raise ValueError(f"the pool has {pool.nmbufs} mbufs, not {n}")
    with nogil:
        start = now()
        for _r in range(total):
            for i in range(count):
                data = pool.pool.slab + <size_t> i * MBUF_STRIDE + MBUF_DATA_OFFSET
                sink += ether_dst(data) ^ ether_src_type(data)
                d = &ring.ring.desc[i & mask]
                d.addr = data
                d.nbytes = 60
                d.status = <uint32_t> sink & ~<uint32_t> DESC_DD
        end = now()
    return end - start
