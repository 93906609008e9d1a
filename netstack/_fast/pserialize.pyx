"""pserialize: read sections without locks and the wait for readers to leave (paper §3.1.3, NetBSD pserialize(9)).

A writer unlinks an object, calls ``perform``, and may free the object after: every read section that was open at
the call
has ended by then, and later ones cannot find the object.

Context: ``read_enter``/``read_exit`` on a CPU, any context, no sleeping inside; ``perform`` in a thread that may sleep,
one at a time per object (the caller's lock sees to that).
"""
from libc.stdint cimport uint32_t, uintptr_t
from libc.stdlib cimport calloc, free

import errno as _errno

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int nanosleep(const timespec *req, timespec *rem) noexcept
    int clock_gettime(int clock, timespec *ts) noexcept
    enum:
        CLOCK_MONOTONIC

STRATEGIES = {"seqcst": int(PSZ_SEQCST), "membarrier": int(PSZ_MEMBARRIER), "switch": int(PSZ_SWITCH)}


def membarrier_available() -> bool:
    """True when the kernel offers the process-wide expedited barrier (membarrier(2), Linux 4.14)."""
    return bool(ns_membarrier_register())


cdef class PSerialize:
    """Grace periods over ``ncpu`` CPUs with one of ``STRATEGIES``, or "auto": membarrier where the kernel has it.

    Raises ValueError for an unknown strategy, OSError(ENOSYS) for "membarrier" without kernel support.
    """

    def __cinit__(self, ncpu: int, strategy: str = "auto"):
        if not 1 <= ncpu < CPU_MAX + 2:
            raise ValueError(f"ncpu must be 1..{CPU_MAX + 1}")
        if strategy == "auto":
            strategy = "membarrier" if membarrier_available() else "seqcst"
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}: one of {', '.join(STRATEGIES)}, auto")
        if strategy == "membarrier" and not membarrier_available():
            raise OSError(_errno.ENOSYS, "this kernel has no membarrier(2); use the strategy seqcst")
        self._memory = calloc(1, (<size_t> ncpu + 1) * sizeof(psz_slot_t) + 128)
        if self._memory == NULL:
            raise MemoryError()
        self.psz.slot = <psz_slot_t *> ((<uintptr_t> self._memory + 127) & ~(<uintptr_t> 127))
        self.psz.ncpu = ncpu
        self.psz.strategy = STRATEGIES[strategy]

    def __dealloc__(self):
        free(self._memory)

    @property
    def strategy(self) -> str:
        return [name for name, value in STRATEGIES.items() if value == self.psz.strategy][0]

    cdef void _check(self, cpu) except *:
        if not 0 <= cpu < self.psz.ncpu:
            raise IndexError(f"no CPU {cpu}")

    def read_enter(self, cpu: int) -> None:
        """Open a read section on a CPU."""
        self._check(cpu)
        psz_read_enter(&self.psz, cpu)

    def read_exit(self, cpu: int) -> None:
        """Close it.  RuntimeError when none is open."""
        self._check(cpu)
        if self.psz.slot[cpu].depth == 0:
            raise RuntimeError(f"no read section is open on CPU {cpu}")
        psz_read_exit(&self.psz, cpu)

    def switchpoint(self, cpu: int) -> None:
        """The CPU has passed between two handlers."""
        self._check(cpu)
        psz_switchpoint(&self.psz, cpu)

    def idle(self, cpu: int, is_idle: bool) -> None:
        """The CPU goes idle, or comes back."""
        self._check(cpu)
        psz_idle(&self.psz, cpu, is_idle)

    def in_section(self, cpu: int) -> bool:
        self._check(cpu)
        return (ns_load_u64(&self.psz.slot[cpu].sections, ACQREL) & 1) == 1

    def checkpoints(self, cpu: int) -> tuple:
        """Counts of a CPU: read sections begun and ended (odd: one is open), switch points."""
        self._check(cpu)
        cdef psz_slot_t *slot = &self.psz.slot[cpu]
        return ns_load_u64(&slot.sections, ACQREL), ns_load_u64(&slot.switches, ACQREL)

    def perform_begin(self) -> None:
        """Start a grace period: note which CPUs have to make progress."""
        psz_perform_begin(&self.psz, &self._grace)

    def perform_poll(self) -> int:
        """How many CPUs the grace period still waits for; 0 ends it."""
        cdef uint32_t left = psz_perform_poll(&self.psz, &self._grace)
        if left == 0:
            self.performs += 1
        return left

    def waiting_for(self) -> list:
        """CPUs that the grace period under way still waits for."""
        cdef uint32_t i
        return [i for i in range(self.psz.ncpu) if self._grace.left[i]]

    def perform(self, wait=None, timeout_s: float = 10.0) -> None:
        """Wait until every read section open now has ended.

        ``wait`` is called while waiting (an engine lets other CPUs run there); without it the thread sleeps 20 us at
        a time.  Raises OSError(ETIMEDOUT) that names the CPU after ``timeout_s`` seconds of this host's clock.
        """
        cdef timespec pause
        cdef timespec now
        pause.tv_sec = 0
        pause.tv_nsec = 20000
        self.perform_begin()
        clock_gettime(CLOCK_MONOTONIC, &now)
        deadline = now.tv_sec + now.tv_nsec * 1e-9 + timeout_s
        while self.perform_poll():
            if wait is not None:
                wait()
            else:
                with nogil:
                    nanosleep(&pause, NULL)
            clock_gettime(CLOCK_MONOTONIC, &now)
            if now.tv_sec + now.tv_nsec * 1e-9 > deadline:
                raise OSError(_errno.ETIMEDOUT, f"grace period stalled: CPU {self.waiting_for()} has not left its "
                                                f"read section for {timeout_s} s")

    def __repr__(self):
        return f"<PSerialize {self.strategy}, {self.psz.ncpu} CPUs, {self.performs} performs>"
