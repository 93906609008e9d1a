/* The one place where atomic operations are spelled.  Three meanings, chosen at compile time:
 *
 *   release          the compiler's C11 builtins, nothing else;
 *   NETSTACK_EXPLORE every access first calls a hook (so that a scheduler may switch virtual CPUs there), and stores
 *                    may be taken over by the hook (delayed-store mode: a small store buffer per CPU);
 *   __SANITIZE_THREAD__  fences, which ThreadSanitizer does not see, become read-modify-writes on a private word.
 */
#ifndef NETSTACK_ATOMICS_H
#define NETSTACK_ATOMICS_H
#include <stdint.h>
#include <stddef.h>

enum { NS_OP_LOAD = 0, NS_OP_STORE = 1, NS_OP_RMW = 2, NS_OP_FENCE = 3, NS_OP_PAUSE = 4, NS_OP_MEMBARRIER = 5 };

#ifdef NETSTACK_EXPLORE
/* hook: called before each access; store: may keep the value back (returns 1); load: may answer from a kept store. */
typedef struct ns_explore {
    void (*hook)(int op, void *addr);
    int (*store)(void *addr, uint64_t value, int bytes, int order);
    int (*load)(void *addr, uint64_t *value, int bytes);
} ns_explore_t;
static ns_explore_t ns_explore;
#define NS_HOOK(op, p) do { if (ns_explore.hook) ns_explore.hook((op), (void *)(p)); } while (0)
#define NS_TAKEN(p, v, n, o) (ns_explore.store && ns_explore.store((void *)(p), (uint64_t)(v), (n), (o)))
#define NS_KEPT(p, pv, n) (ns_explore.load && ns_explore.load((void *)(p), (pv), (n)))
static inline void ns_explore_set(void *hook, void *store, void *load) {
    ns_explore.hook = (void (*)(int, void *))hook;
    ns_explore.store = (int (*)(void *, uint64_t, int, int))store;
    ns_explore.load = (int (*)(void *, uint64_t *, int))load;
}
#define NS_IS_EXPLORE 1
/* A word that only this CPU writes: its own value, a kept store included; no switch point. */
#define ns_own_u64(p) ns_own((const void *)(p), *(p), 8)
#define ns_own_u32(p) ((uint32_t)ns_own((const void *)(p), *(p), 4))
static inline uint64_t ns_own(const void *p, uint64_t memory, int bytes) {
    uint64_t kept = 0;
    return NS_KEPT(p, &kept, bytes) ? kept : memory;
}
#else
#define NS_HOOK(op, p) ((void)0)
#define NS_TAKEN(p, v, n, o) 0
#define NS_KEPT(p, pv, n) 0
static inline void ns_explore_set(void *hook, void *store, void *load) { (void)hook; (void)store; (void)load; }
#define NS_IS_EXPLORE 0
#define ns_own_u64(p) (*(p))
#define ns_own_u32(p) (*(p))
#endif

#define NS_DEFINE(T, S)                                                                                        \
    static inline T ns_load_##S(T *p, int order) {                                                            \
        NS_HOOK(NS_OP_LOAD, p);                                                                               \
        uint64_t kept = 0;                                                                                    \
        if (NS_KEPT(p, &kept, (int)sizeof(T))) return (T)kept;                                                \
        return order ? __atomic_load_n(p, __ATOMIC_ACQUIRE) : __atomic_load_n(p, __ATOMIC_RELAXED);           \
    }                                                                                                         \
    static inline void ns_store_##S(T *p, T v, int order) {                                                   \
        NS_HOOK(NS_OP_STORE, p);                                                                              \
        if (NS_TAKEN(p, v, (int)sizeof(T), order)) return;                                                    \
        if (order) __atomic_store_n(p, v, __ATOMIC_RELEASE); else __atomic_store_n(p, v, __ATOMIC_RELAXED);   \
    }                                                                                                         \
    static inline T ns_xchg_##S(T *p, T v) {                                                                  \
        NS_HOOK(NS_OP_RMW, p); return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                            \
    }                                                                                                         \
    static inline int ns_cas_##S(T *p, T old, T v) {                                                          \
        NS_HOOK(NS_OP_RMW, p);                                                                                \
        return __atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                \
    }                                                                                                         \
    static inline T ns_add_##S(T *p, T v) {                                                                   \
        NS_HOOK(NS_OP_RMW, p); return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                             \
    }                                                                                                         \
    static inline T ns_or_##S(T *p, T v) {                                                                    \
        NS_HOOK(NS_OP_RMW, p); return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);                              \
    }                                                                                                         \
    static inline T ns_and_##S(T *p, T v) {                                                                   \
        NS_HOOK(NS_OP_RMW, p); return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);                             \
    }
NS_DEFINE(uint64_t, u64)
NS_DEFINE(uint32_t, u32)

static inline void *ns_load_ptr(void *p, int order) {
    return (void *)(uintptr_t)ns_load_u64((uint64_t *)p, order);
}
static inline void ns_store_ptr(void *p, void *v, int order) {
    ns_store_u64((uint64_t *)p, (uint64_t)(uintptr_t)v, order);
}

/* Statistics: a counter has one writer at a time, others may read it at any time and see it old, never torn.  No bus
 * lock, no order, and no step of the explorer: nothing is decided by them. */
static inline void ns_count_u64(uint64_t *p, uint64_t n) {
    __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}
static inline void ns_count_u32(uint32_t *p, uint32_t n) {
    __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}
/* A byte of a table that the control plane rewrites in place. */
static inline uint8_t ns_read_u8(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void ns_write_u8(uint8_t *p, uint8_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
static inline uint64_t ns_read_u64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline uint32_t ns_read_u32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }

/* Orders a store before a later load (the one reordering x86 does). */
static inline void ns_fence(void) {
    NS_HOOK(NS_OP_FENCE, 0);
#ifdef __SANITIZE_THREAD__
    static uint64_t word;
    __atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}
/* Keeps the compiler, not the processor, from moving accesses: the reader's half of the membarrier strategy. */
static inline void ns_compiler_barrier(void) { __asm__ __volatile__("" ::: "memory"); }

static inline void ns_pause(void) {
    NS_HOOK(NS_OP_PAUSE, 0);
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
#endif
