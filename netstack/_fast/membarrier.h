/* The process-wide barrier of membarrier(2): every processor that runs a thread of this process executes a fence. */
#ifndef NETSTACK_MEMBARRIER_H
#define NETSTACK_MEMBARRIER_H
#include <unistd.h>
#include <sys/syscall.h>
#include "atomics.h"

enum { NS_MEMBARRIER_PRIVATE_EXPEDITED = 8, NS_MEMBARRIER_REGISTER_PRIVATE_EXPEDITED = 16 };

/* 1 when the kernel offers it; registers this process. */
static inline int ns_membarrier_register(void) {
#ifdef __NR_membarrier
    return syscall(__NR_membarrier, NS_MEMBARRIER_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
#else
    return 0;
#endif
}

/* In an explorer the hook drains every CPU's store buffer instead. */
static inline void ns_membarrier(void) {
    NS_HOOK(NS_OP_MEMBARRIER, 0);
#if !defined(NETSTACK_EXPLORE) && defined(__NR_membarrier)
    syscall(__NR_membarrier, NS_MEMBARRIER_PRIVATE_EXPEDITED, 0, 0);
#endif
}
#endif
