/* KASSERT for code that runs without the GIL.  Compiled out unless NETSTACK_CHECKED. */
#ifndef NETSTACK_KASSERT_H
#define NETSTACK_KASSERT_H
#include <stdio.h>
#include <stdlib.h>
#ifdef NETSTACK_CHECKED
#define NS_CHECKED 1
#define KASSERT(cond, msg) do { if (!(cond)) { \
    fprintf(stderr, "netstack: KASSERT failed: %s (%s:%d)\n", (msg), __FILE__, __LINE__); fflush(stderr); abort(); } } while (0)
#else
#define NS_CHECKED 0
#define KASSERT(cond, msg) ((void)0)
#endif
#define ns_likely(x) __builtin_expect(!!(x), 1)
#define ns_unlikely(x) __builtin_expect(!!(x), 0)
#define ns_prefetch(p) __builtin_prefetch((p), 0, 3)
#define ns_prefetchw(p) __builtin_prefetch((p), 1, 3)
#endif
