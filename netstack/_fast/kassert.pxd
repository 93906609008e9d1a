"""``KASSERT``: what must hold, checked in builds made with NETSTACK_CHECKED=1, gone otherwise."""
from libc.stdint cimport uint32_t

cdef extern from "kassert.h" nogil:
    void KASSERT(bint cond, const char *msg) noexcept
    const int NS_CHECKED
    const int NS_LOCKS_TAGGED
    uint32_t ns_lock_tag() noexcept
    bint ns_likely(bint x) noexcept
    bint ns_unlikely(bint x) noexcept
    void ns_prefetch(const void *p) noexcept
    void ns_prefetchw(void *p) noexcept
