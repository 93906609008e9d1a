"""Passive references: hold an object over sleepable calls without an atomic (NetBSD psref(9)).

What the paper does with a reference count per bridge member (§3.2.2), without the shared counter: a
reference is a record on the holder's CPU.  Take it inside a pserialize section, leave the section,
work, release.  The destroyer unlinks, performs, and then waits until no CPU has a record.

A record belongs to who took it, on the CPU it was taken on; for what moves between threads or lives
long there is ``kern/refcount.py``.
"""

from errno import EBUSY, EDEADLK, EINVAL, ETIMEDOUT

from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from, context_of
from netstack.kern.spl import SOFTINT_IPL
from netstack.machine.api import Caller, Cpu, Engine, caller_of

__all__ = ["Psref", "PsrefClass", "PsrefTarget"]


class PsrefClass:
    """A kind of target.

    Args: name -- for messages.   ipl -- highest level from which references are taken.
    """

    def __init__(self, engine: Engine, name: str, ipl: int = SOFTINT_IPL[2]) -> None:
        self.engine = engine
        self.name = name
        self.ipl = int(ipl)
        self.targets = 0

    def destroy(self) -> None:
        """End the class.

        Raises: NetstackError -- EBUSY, a target is left.
        """
        if self.targets:
            raise NetstackError(EBUSY, f"psref class {self.name}: {self.targets} targets are left")


class Psref:
    """One reference: by whom, from where."""

    __slots__ = ("cpu_index", "holder", "is_released", "target")

    def __init__(self, target: "PsrefTarget", cpu_index: int, holder: Caller) -> None:
        self.target = target
        self.cpu_index = cpu_index
        self.holder = holder
        self.is_released = False

    def release(self) -> None:
        """Give the reference back.

        Context: the CPU and the thread or handler that took it (threads are bound).
        Raises:  NetstackError -- EINVAL, released before, from another CPU or by another thread.
        """
        target = self.target
        index = target.place_of_caller()
        caller = caller_of(target.klass.engine)
        if self.is_released or index != self.cpu_index or caller is not self.holder:
            why = f"taken by {self.holder}, released by {caller}"
            if self.is_released:
                why = "released twice"
            elif index != self.cpu_index:
                why = f"released on CPU {index}"
            raise NetstackError(EINVAL, f"psref of {target.name} from CPU {self.cpu_index}: {why}")
        self.is_released = True
        target.records[index].remove(self)

    def copy(self) -> "Psref":
        """Take a second reference on the same target, even while that is drained.

        Context: as ``release``.
        Raises:  NetstackError -- EINVAL, this one is released.
        """
        if self.is_released:
            raise NetstackError(EINVAL, f"psref of {self.target.name}: copied after its release")
        return self.target.add_record()

    def __enter__(self) -> "Psref":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class PsrefTarget:
    """Something that can be held."""

    def __init__(self, klass: PsrefClass, name: str) -> None:
        self.klass = klass
        self.name = name
        self.is_draining = False
        self.is_destroyed = False
        # One list per CPU, touched by that CPU; the last is for control threads.
        self.records: list[list[Psref]] = [[] for _ in range(len(klass.engine.cpus) + 1)]
        klass.targets += 1

    def acquire(self) -> Psref:
        """Hold the target; it was found inside the pserialize section that is still open.

        Context: softint or bound thread; a hard handler if the class has its level.
        Raises:  NetstackError -- EDEADLK, from above the level of the class; EINVAL, the target is
                 being destroyed: it should not have been found.
        """
        engine = self.klass.engine
        cpu = engine.curcpu()
        if cpu is not None and context_of(engine) == "hard" and cpu.spl > self.klass.ipl:
            assert_callable_from(engine, "psref_acquire")
        if self.is_draining:
            raise NetstackError(EINVAL, f"{self.name} is being destroyed; it was unlinked before")
        return self.add_record()

    def add_record(self) -> Psref:
        """Enter a reference of the caller; the business of ``acquire`` and ``Psref.copy``."""
        index = self.place_of_caller()
        psref = Psref(self, index, caller_of(self.klass.engine))
        self.records[index].append(psref)
        return psref

    def is_held(self, cpu: Cpu | None = None) -> bool:
        """Say whether a CPU (the caller's by default) has a reference."""
        return bool(self.records[self.place_of_caller() if cpu is None else cpu.index])

    @property
    def count(self) -> int:
        """References on all CPUs; exact only when nobody is at work."""
        return sum(len(records) for records in self.records)

    def holders(self) -> list[str]:
        """Who holds the target, in words: what a leak report needs."""
        return [f"{psref.holder}" for records in self.records for psref in list(records)]

    def destroy(self, timeout_s: float = 10.0) -> None:
        """Wait until nobody holds the target.

        Context: thread or control thread; the target was unlinked and a grace period has passed.
                 After a timeout it may be called again; nobody new can hold the target meanwhile.
        Raises:  NetstackError -- EDEADLK, from an interrupt or softint, or a holder cannot go on;
                 ETIMEDOUT; EINVAL, destroyed before.  Errors of waiting name the holders.
        """
        engine = self.klass.engine
        assert_callable_from(engine, "psref_target_destroy")
        if self.is_destroyed:
            raise NetstackError(EINVAL, f"{self.name} is destroyed already")
        me = caller_of(engine)
        if any(psref.holder is me for psref in self.records[self.place_of_caller()]):
            raise NetstackError(EDEADLK, f"{self.name}: release your own reference first")
        debug = engine.lockdebug
        if debug is not None:
            debug.wait_for(f"psref drain of {self.klass.name}")
        self.is_draining = True
        try:
            engine.wait_until(
                lambda: not any(self.records), f"holders of {self.name}", timeout_s
            )
        except NetstackError as error:
            if error.errno in (ETIMEDOUT, EDEADLK) and self.count:
                text = f"{error.strerror}; held by {', '.join(self.holders())}"
                raise NetstackError(error.errno, text) from error
            raise
        self.is_destroyed = True
        self.klass.targets -= 1

    def place_of_caller(self) -> int:
        """Index of the caller's list."""
        cpu = self.klass.engine.curcpu()
        return len(self.records) - 1 if cpu is None else cpu.index
