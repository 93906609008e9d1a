"""A value for each CPU, which that CPU changes without a lock (NetBSD percpu(9)).

    hits = Percpu(engine, lambda: [0], name="hits")
    with hits.ref() as mine:        # percpu_getref ... percpu_putref
        mine[0] += 1
    total = sum(value[0] for value in hits.values())

Between ``getref`` and ``putref`` the caller stays on its CPU and must not wait.  What interrupts it
there sees the same value: raise the SPL against a handler that uses it too.  Control threads have no
CPU; they share one value more, and a lock that ``getref`` takes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EBUSY, EINVAL, EPERM
from typing import Generic, TypeVar

from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.xcall import XC_HIGHPRI, xc_broadcast, xc_wait
from netstack.machine.api import Engine

__all__ = ["PINNED", "Percpu"]

T = TypeVar("T")

PINNED = "percpu reference"  # in LOCKDEBUG: the caller may not wait


class Percpu(Generic[T]):
    """One value for each CPU, and one for control threads.

    Args:    make -- called as ``make()`` for each value (percpu_create(9): the constructor).
             unmake -- called with each value by ``free``.
    Context: thread or control thread.
    """

    def __init__(
        self,
        engine: Engine,
        make: Callable[[], T],
        unmake: Callable[[T], object] | None = None,
        *,
        name: str = "percpu",
    ) -> None:
        assert_callable_from(engine, "percpu_alloc")
        self.name = name
        self._engine = engine
        self._unmake = unmake
        self._values = [make() for _ in range(len(engine.cpus) + 1)]
        self._pins = [0] * len(self._values)  # references out; each written on its CPU
        self._control = engine.new_lock(f"percpu {name}")
        self._is_freed = False

    def getref(self) -> T:
        """Return the caller's value and keep the caller on its CPU until ``putref``.

        Context: any; no waiting until ``putref``.  References nest.
        Raises:  NetstackError -- EINVAL, it was freed.
        """
        self._check()
        cpu = self._engine.curcpu()
        if cpu is None:
            self._control.enter()
        index = len(self._values) - 1 if cpu is None else cpu.index
        self._pins[index] += 1
        return self._values[index]

    def putref(self) -> None:
        """End a ``getref``.

        Raises: NetstackError -- EPERM, the caller's CPU has none.
        """
        cpu = self._engine.curcpu()
        index = len(self._values) - 1 if cpu is None else cpu.index
        if not self._pins[index] or (cpu is None and not self._control.is_mine):
            where = "a control thread" if cpu is None else f"CPU {index}"
            raise NetstackError(
                EPERM, f"percpu {self.name}: putref from {where} without getref; did the caller wait?"
            )
        self._pins[index] -= 1
        if cpu is None:
            self._control.exit()

    @contextmanager
    def ref(self) -> Iterator[T]:
        """Hold a reference over a ``with`` block."""
        value = self.getref()
        debug = self._engine.lockdebug
        try:
            if debug is None:
                yield value
            else:
                with debug.inside(PINNED):
                    yield value
        finally:
            self.putref()

    def foreach(self, fn: Callable[[T, int], object]) -> None:
        """Call ``fn(value, cpu_index)`` for every CPU, here; -1 stands for control threads.

        Context: any.  The CPUs go on meanwhile: what ``fn`` reads may be a moment old, and it must
                 not write.  ``foreach_xcall`` does that.
        Source:  NetBSD percpu_foreach().
        """
        self._check()
        for index, value in enumerate(self._values):
            fn(value, -1 if index == len(self._values) - 1 else index)

    def foreach_xcall(self, fn: Callable[[T, int], object], level: str = XC_HIGHPRI) -> None:
        """Call ``fn(value, cpu_index)`` on every CPU, and wait; control threads' value is left out.

        Context: thread or control thread; waits.
        Args:    level -- of the cross-call; see ``kern/xcall.py``.
        Raises:  what ``fn`` and ``xc_wait`` raise.
        """
        self._check()
        call = xc_broadcast(self._engine, lambda: self._call_here(fn), level=level)
        xc_wait(self._engine, call)

    def values(self) -> list[T]:
        """Return the values of all CPUs, the control threads' last; to read."""
        self._check()
        return list(self._values)

    def free(self) -> None:
        """End it; every value goes through ``unmake``.

        Context: thread or control thread.
        Raises:  NetstackError -- EBUSY, a reference is out; EINVAL, freed before.
        """
        assert_callable_from(self._engine, "percpu_alloc")
        self._check()
        out = [index for index, count in enumerate(self._pins) if count]
        if out:
            raise NetstackError(
                EBUSY, f"percpu {self.name}: references are out on CPU {out}; putref comes first"
            )
        self._is_freed = True
        values, self._values = self._values, []
        if self._unmake is not None:
            for value in values:
                self._unmake(value)

    def _call_here(self, fn: Callable[[T, int], object]) -> None:
        cpu = self._engine.curcpu()
        assert cpu is not None, "at low priority the wall machine's threads are on no CPU"
        fn(self._values[cpu.index], cpu.index)

    def _check(self) -> None:
        if self._is_freed:
            raise NetstackError(EINVAL, f"percpu {self.name} was freed")
