/* What the sanitizers must be told, because they cannot see it: a pool frees nothing, a spin lock is only a word.
 *
 *   __SANITIZE_ADDRESS__  memory of the pool that belongs to nobody is poisoned: touching it is reported;
 *   __SANITIZE_THREAD__   spin locks are mutexes: lock-order inversions and unlocks by others are reported.
 *
 * Nothing at all in other builds.
 */
#ifndef NETSTACK_SANITIZE_H
#define NETSTACK_SANITIZE_H

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define NS_ASAN 1
#define ns_poison(p, n) ASAN_POISON_MEMORY_REGION((p), (n))
#define ns_unpoison(p, n) ASAN_UNPOISON_MEMORY_REGION((p), (n))
#else
#define NS_ASAN 0
#define ns_poison(p, n) ((void)(p), (void)(n))
#define ns_unpoison(p, n) ((void)(p), (void)(n))
#endif

#if defined(__SANITIZE_THREAD__) && defined(NETSTACK_TSAN_LOCKS)
#include <sanitizer/tsan_interface.h>
#define ns_locking(p) __tsan_mutex_pre_lock((p), 0)
#define ns_locked(p) __tsan_mutex_post_lock((p), 0, 0)
#define ns_trying(p) __tsan_mutex_pre_lock((p), __tsan_mutex_try_lock)
#define ns_tried(p, done) \
    __tsan_mutex_post_lock((p), __tsan_mutex_try_lock | ((done) ? 0 : __tsan_mutex_try_lock_failed), 0)
#define ns_unlocking(p) ((void)__tsan_mutex_pre_unlock((p), 0))
#define ns_unlocked(p) __tsan_mutex_post_unlock((p), 0)
#else
#define ns_locking(p) ((void)(p))
#define ns_locked(p) ((void)(p))
#define ns_trying(p) ((void)(p))
#define ns_tried(p, done) ((void)(p))
#define ns_unlocking(p) ((void)(p))
#define ns_unlocked(p) ((void)(p))
#endif
#endif
