"""What the sanitizers must be told (``sanitize.h``): who owns pool memory, and that a spin lock is a lock."""

cdef extern from "sanitize.h" nogil:
    const int NS_ASAN
    void ns_poison(const void *p, size_t n) noexcept       # nobody may touch it from now on
    void ns_unpoison(const void *p, size_t n) noexcept
    void ns_locking(void *p) noexcept                      # around an acquisition that waits
    void ns_locked(void *p) noexcept
    void ns_trying(void *p) noexcept                       # around one that does not
    void ns_tried(void *p, bint done) noexcept
    void ns_unlocking(void *p) noexcept                    # around a release
    void ns_unlocked(void *p) noexcept
