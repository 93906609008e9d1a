/* KASSERT for code that runs without the GIL.  Compiled out unless NETSTACK_CHECKED.
 *
 * The explorer's modules have it always: there a failure is what a schedule was looked for, and ends that schedule. */
#ifndef NETSTACK_KASSERT_H
#define NETSTACK_KASSERT_H
#include <stdio.h>
#include <stdlib.h>
#if defined(NETSTACK_EXPLORE) && defined(NETSTACK_MUTANTS)
#define NS_CHECKED 1
static void (*ns_kassert_failed)(const char *message);
#define KASSERT(cond, msg) do { if (!(cond)) { if (ns_kassert_failed) ns_kassert_failed(msg); else abort(); } } while (0)
#elif defined(NETSTACK_CHECKED)
#define NS_CHECKED 1
#define KASSERT(cond, msg) do { if (!(cond)) { \
    fprintf(stderr, "netstack: KASSERT failed: %s (%s:%d)\n", (msg), __FILE__, __LINE__); fflush(stderr); abort(); } } while (0)
#else
#define NS_CHECKED 0
#define KASSERT(cond, msg) ((void)0)
#endif
/* What a held spin lock's word says: in the checked build who holds it, else 1.  The explorer's CPUs share one thread,
 * and a mutant's lock has several holders. */
#if NS_CHECKED && !defined(NETSTACK_EXPLORE) && !defined(NETSTACK_MUTANTS)
#include <pthread.h>
#include <stdint.h>
#define NS_LOCKS_TAGGED 1
static inline uint32_t ns_lock_tag(void) { return (uint32_t)((uintptr_t)pthread_self() >> 4) | 1u; }
#else
#define NS_LOCKS_TAGGED 0
#define ns_lock_tag() 1u
#endif
#define ns_likely(x) __builtin_expect(!!(x), 1)
#define ns_unlikely(x) __builtin_expect(!!(x), 0)
#define ns_prefetch(p) __builtin_prefetch((p), 0, 3)
#define ns_prefetchw(p) __builtin_prefetch((p), 1, 3)
#endif
