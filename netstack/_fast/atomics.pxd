"""The few atomics and barriers used, each with the reason to use it.  Spelled once, in ``atomics.h``.

order argument: ``RELAXED`` for a word that carries its whole meaning (a MAC entry, a counter), ``ACQREL`` where
the word
publishes or takes over other memory (ring tails, snapshots): load = acquire, store = release.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint64_t ns_load_u64(uint64_t *p, int order) noexcept
    void ns_store_u64(uint64_t *p, uint64_t v, int order) noexcept
    uint64_t ns_xchg_u64(uint64_t *p, uint64_t v) noexcept
    bint ns_cas_u64(uint64_t *p, uint64_t old, uint64_t v) noexcept
    uint64_t ns_add_u64(uint64_t *p, uint64_t v) noexcept
    uint64_t ns_or_u64(uint64_t *p, uint64_t v) noexcept
    uint64_t ns_and_u64(uint64_t *p, uint64_t v) noexcept
    uint32_t ns_load_u32(uint32_t *p, int order) noexcept
    void ns_store_u32(uint32_t *p, uint32_t v, int order) noexcept
    uint32_t ns_xchg_u32(uint32_t *p, uint32_t v) noexcept
    bint ns_cas_u32(uint32_t *p, uint32_t old, uint32_t v) noexcept
    uint32_t ns_add_u32(uint32_t *p, uint32_t v) noexcept
    uint32_t ns_or_u32(uint32_t *p, uint32_t v) noexcept
    uint32_t ns_and_u32(uint32_t *p, uint32_t v) noexcept
    void *ns_load_ptr(void *p, int order) noexcept
    void ns_store_ptr(void *p, void *v, int order) noexcept
    uint64_t ns_own_u64(const uint64_t *p) noexcept    # a word that only the caller's CPU writes
    uint32_t ns_own_u32(const uint32_t *p) noexcept
    void ns_count_u64(uint64_t *p, uint64_t n) noexcept    # statistics: one writer, readers at any time
    void ns_count_u32(uint32_t *p, uint32_t n) noexcept
    uint8_t ns_read_u8(const uint8_t *p) noexcept          # a byte of a table rewritten in place
    void ns_write_u8(uint8_t *p, uint8_t v) noexcept
    uint64_t ns_read_u64(const uint64_t *p) noexcept
    uint32_t ns_read_u32(const uint32_t *p) noexcept
    void ns_fence() noexcept
    void ns_compiler_barrier() noexcept
    void ns_pause() noexcept
    void ns_explore_set(void *hook, void *store, void *load) noexcept
    const int NS_IS_EXPLORE

cdef enum:
    RELAXED = 0
    ACQREL = 1
