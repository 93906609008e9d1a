/* Find an address among the eight words of a bucket: whole-line compare where the CPU level has it, a loop elsewhere. */
#ifndef NETSTACK_MACBUCKET_H
#define NETSTACK_MACBUCKET_H
#include <stdint.h>
#if defined(__AVX2__) && !defined(NETSTACK_EXPLORE) && !defined(__SANITIZE_THREAD__)
#include <immintrin.h>
static inline int ns_bucket_find(const uint64_t *b, uint64_t mac) {
    const __m256i key = _mm256_set1_epi64x((long long)(mac << 16));
    __m256i lo = _mm256_slli_epi64(_mm256_load_si256((const __m256i *)b), 16);
    __m256i hi = _mm256_slli_epi64(_mm256_load_si256((const __m256i *)(b + 4)), 16);
    unsigned m = (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(lo, key)))
               | (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(hi, key))) << 4;
    return m ? __builtin_ctz(m) : -1;
}
#else
#include "atomics.h"
static inline int ns_bucket_find(const uint64_t *b, uint64_t mac) {
    for (int i = 0; i < 8; i++)
        if (((ns_load_u64((uint64_t *)&b[i], 0) ^ mac) & 0xFFFFFFFFFFFFull) == 0) return i;
    return -1;
}
#endif
#endif
