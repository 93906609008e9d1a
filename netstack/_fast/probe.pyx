"""Yardsticks for benchmarks: what this processor does without any network code, and the primitives beside it.

Context: benchmarks, any thread; the GIL is released while they run.
"""
from libc.stdint cimport uint32_t, uint64_t

from netstack._fast.atomics cimport ns_add_u64
from netstack._fast.dring cimport desc_t, DescRing, DESC_DD
from netstack._fast.etherhdr cimport ether_dst, ether_src_type
from netstack._fast.lock cimport SpinLock, spin_enter, spin_exit
from netstack._fast.mbuf cimport MbufPool, MBUF_STRIDE, MBUF_DATA_OFFSET
from netstack._fast.pcq cimport Pcq, pcq_get, pcq_put
from netstack._fast.pserialize cimport PSerialize, psz_read_enter, psz_read_exit

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_rwlock_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *m, void *attr) noexcept
    int pthread_mutex_lock(pthread_mutex_t *m) noexcept
    int pthread_mutex_unlock(pthread_mutex_t *m) noexcept
    int pthread_mutex_destroy(pthread_mutex_t *m) noexcept
    int pthread_rwlock_init(pthread_rwlock_t *l, void *attr) noexcept
    int pthread_rwlock_rdlock(pthread_rwlock_t *l) noexcept
    int pthread_rwlock_unlock(pthread_rwlock_t *l) noexcept
    int pthread_rwlock_destroy(pthread_rwlock_t *l) noexcept

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


# One primitive over and over, uncontended: nanoseconds for ``loops`` times.

def atomic_add(loops: int) -> int:
    """A locked addition to a word of one's own: what any lock pays at least once."""
    cdef uint64_t n = loops, _i, word = 0, start, end
    with nogil:
        start = now()
        for _i in range(n):
            ns_add_u64(&word, 1)
        end = now()
    return end - start


def pthread_mutex(loops: int) -> int:
    """Lock and unlock a default mutex of the C library."""
    cdef uint64_t n = loops, _i, start, end
    cdef pthread_mutex_t m
    pthread_mutex_init(&m, NULL)
    with nogil:
        start = now()
        for _i in range(n):
            pthread_mutex_lock(&m)
            pthread_mutex_unlock(&m)
        end = now()
    pthread_mutex_destroy(&m)
    return end - start


def pthread_rwlock(loops: int) -> int:
    """Lock for reading and unlock a readers/writer lock of the C library."""
    cdef uint64_t n = loops, _i, start, end
    cdef pthread_rwlock_t lock
    pthread_rwlock_init(&lock, NULL)
    with nogil:
        start = now()
        for _i in range(n):
            pthread_rwlock_rdlock(&lock)
            pthread_rwlock_unlock(&lock)
        end = now()
    pthread_rwlock_destroy(&lock)
    return end - start


def spin_lock(SpinLock lock not None, loops: int) -> int:
    """Enter and exit a spin lock nobody else wants."""
    cdef uint64_t n = loops, _i, start, end
    with nogil:
        start = now()
        for _i in range(n):
            spin_enter(&lock.lock)
            spin_exit(&lock.lock)
        end = now()
    return end - start


def read_section(PSerialize psz not None, cpu: int, loops: int) -> int:
    """Enter and exit a read section of a CPU that nobody else is."""
    cdef uint64_t n = loops, _i, start, end
    cdef uint32_t index = cpu
    if not 0 <= cpu < psz.psz.ncpu:
        raise IndexError(f"no CPU {cpu}")
    with nogil:
        start = now()
        for _i in range(n):
            psz_read_enter(&psz.psz, index)
            psz_read_exit(&psz.psz, index)
        end = now()
    return end - start


def pcq_pass(Pcq queue not None, loops: int) -> int:
    """Put one item into an empty producer/consumer queue and take it."""
    cdef uint64_t n = loops, _i, start, end
    cdef int item = 0
    with nogil:
        start = now()
        for _i in range(n):
            pcq_put(queue.q, &item)
            pcq_get(queue.q)
        end = now()
    return end - start
