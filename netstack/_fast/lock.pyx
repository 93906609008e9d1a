"""Spin mutex word for Python callers and tests; the kernels use the inlines of ``lock.pxd``.

Context: any.  Not re-entrant: entering twice from one thread spins for ever, as on NetBSD (``mutex(9)``); the
rules about
who may take it are in ``netstack/kern``, not here.
"""


cdef class SpinLock:
    """One spin lock.  ``enter``/``exit``/``try_enter``; counters ``acquired`` and ``contended``."""

    def __cinit__(self):
        self.lock.word = 0
        self.lock.contended = 0
        self.lock.acquired = 0

    def enter(self) -> None:
        """Busy-wait for the lock with the GIL released."""
        with nogil:
            spin_enter(&self.lock)

    def try_enter(self) -> bool:
        """Take the lock if it is free."""
        return spin_try(&self.lock)

    def exit(self) -> None:
        """Release the lock."""
        spin_exit(&self.lock)

    @property
    def held(self) -> bool:
        return self.lock.word != 0

    @property
    def acquired(self) -> int:
        return self.lock.acquired

    @property
    def contended(self) -> int:
        return self.lock.contended
