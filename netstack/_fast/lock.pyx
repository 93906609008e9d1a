"""Spin mutex word for Python callers and tests; the kernels use the inlines of ``lock.pxd``.

Context: any.  Not re-entrant: entering twice from one thread spins for ever, as on NetBSD (``mutex(9)``), and is an
error in the checked build, as is a release by another thread; the rules about who may take it are in
``netstack/kern``, not here.
"""

from netstack._fast.atomics cimport ns_read_u64, ns_read_u32
from netstack._fast.kassert cimport NS_CHECKED, NS_LOCKS_TAGGED

import errno as _errno

IS_CHECKED = bool(NS_CHECKED)   # this build has its asserts: NETSTACK_CHECKED=1

cdef void (*relax_hook)() noexcept nogil
relax_hook = NULL


cdef void spin_relax() noexcept nogil:
    if relax_hook != NULL:
        relax_hook()
    else:
        sched_yield()


cdef bint spin_is_alone() noexcept nogil:
    return relax_hook == NULL


def relax_with(address: int) -> None:
    """Have who spins long call a C function in place of sched_yield; 0: sched_yield again.

    For a machine whose CPUs share one thread: there a spinner must let the holder go on.
    """
    global relax_hook
    relax_hook = <void (*)() noexcept nogil> <size_t> address


cdef class SpinLock:
    """One spin lock.  ``enter``/``exit``/``try_enter``; counters ``acquired`` and ``contended``."""

    def __cinit__(self):
        self.lock.word = 0
        self.lock.contended = 0
        self.lock.acquired = 0

    def enter(self) -> None:
        """Busy-wait for the lock with the GIL released.

        Checked build: OSError(EDEADLK) when the calling thread holds it, and nothing else runs in this thread.
        """
        if spin_is_mine(&self.lock) and spin_is_alone():
            raise OSError(_errno.EDEADLK, "spin lock taken by the thread that holds it: it would spin for ever")
        with nogil:
            spin_enter(&self.lock)

    def try_enter(self) -> bool:
        """Take the lock if it is free."""
        return spin_try(&self.lock)

    def exit(self) -> None:
        """Release the lock.

        Checked build: OSError(EPERM) when the calling thread does not hold it.
        """
        if NS_LOCKS_TAGGED and not spin_is_mine(&self.lock):
            raise OSError(_errno.EPERM, "spin lock released by a thread that does not hold it")
        spin_exit(&self.lock)

    @property
    def held(self) -> bool:
        return ns_read_u32(&self.lock.word) != 0

    @property
    def acquired(self) -> int:
        return ns_read_u64(&self.lock.acquired)

    @property
    def contended(self) -> int:
        return ns_read_u32(&self.lock.contended)
