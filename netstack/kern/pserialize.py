"""Passive serialization: lock-free read sections, and the wait for readers (paper §3.1.3).

The mechanism is compiled (``_fast/pserialize``); here are the rules of contexts, and who is to blame
when a grace period does not end.  A writer unlinks an object, calls ``perform``, and may free it:
every section that was open has ended.

    with mutex:
        table.remove(entry)
        engine.pserialize.perform()
    entry.free()

A section inside a section of the same CPU is possible, not expected (Table 1): a hard handler at
splhigh may come upon the reader it interrupted.  The outermost exit ends the section.
"""

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDEADLK, EPERM, ETIMEDOUT
from typing import NamedTuple

from netstack._fast.pserialize import PSerialize
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.mutex import Mutex
from netstack.kern.spl import IPL, splraise, splx
from netstack.machine.api import Cpu, Engine, Timer, stack_of
from netstack.params import PSZ_STALL_S, PSZ_STALLS_MAX

__all__ = ["GRACE_PERIOD", "GracePeriodStall", "Pserialize", "StallWarning"]

GRACE_PERIOD = "grace period"  # in the lock order: a wait for it is a wait for every reader
NS_PER_S = 1_000_000_000


class StallWarning(UserWarning):
    """A grace period takes long; the text says which CPU holds it up, and what it is doing."""


class GracePeriodStall(NamedTuple):
    """One CPU that holds up a grace period, as it was when that was noticed."""

    cpu_index: int
    waited_s: float  # machine time since the writer began to wait
    context: str  # "hard", "soft", "thread" or "idle"
    handler: str
    spl: int
    depth: int  # read sections open on it
    sections: int  # begun since the writer began to wait
    switches: int  # switch points passed since then; the strategy "switch" needs two
    rounds: int  # of the compiled run loop since then (wall machine)
    stack: tuple[str, ...]  # of its Python code, innermost last

    def __str__(self) -> str:
        what = f"{self.context} '{self.handler}'" if self.handler else self.context
        depth = f"in {self.depth} read sections" if self.depth > 1 else "in a read section"
        where = depth if self.depth else "in no read section"
        doing = " <- ".join(reversed(self.stack[-4:])) if self.stack else "compiled code, or nothing"
        return (
            f"CPU {self.cpu_index}: {what} at SPL {self.spl}, {where}; since the wait began "
            f"{self.sections} sections, {self.switches} switch points, {self.rounds} loop rounds; "
            f"doing: {doing}"
        )


class Pserialize:
    """Sections and grace periods on one compiled object; by default the machine's own.

    Args: stall_s -- machine time after which a ``perform`` reports who holds it up; again after
          twice that time, and so on.  May be changed at any time.
    """

    def __init__(
        self, engine: Engine, psz: PSerialize | None = None, *, stall_s: float = PSZ_STALL_S
    ) -> None:
        self.psz = psz if psz is not None else engine.psz
        self.stall_s = stall_s
        self.stalls: deque[GracePeriodStall] = deque(maxlen=PSZ_STALLS_MAX)
        self.stalled = 0  # grace periods that were reported
        self._engine = engine
        self._writer = Mutex(engine, "pserialize")
        self._depth = [0] * len(engine.cpus)  # sections opened here; each written by its CPU

    def read_enter(self, cpu: Cpu) -> int:
        """Open a section on the current CPU; return the SPL for ``read_exit``.

        Context: softint or thread; a hard handler only at ``IPL.HIGH``.  No softint runs on this
                 CPU, no waiting and no ``charge`` until the exit.
        Source:  NetBSD pserialize_read_enter(): splsoftserial.
        """
        if cpu.context == "hard" and cpu.spl < IPL.HIGH:
            assert_callable_from(self._engine, "pserialize (reader)")
        debug = self._engine.lockdebug
        if debug is not None:
            debug.section_begins(cpu)  # first: if it refuses, the SPL is as it was
        s = splraise(cpu, IPL.SOFTSERIAL)
        self.psz.read_enter(cpu.index)
        self._depth[cpu.index] += 1
        return s

    def read_exit(self, cpu: Cpu, s: int) -> None:
        """Close the section; what was found inside may not be used any more.

        Raises: NetstackError -- EPERM, this CPU has none open.
        """
        debug = self._engine.lockdebug
        if debug is not None:
            debug.section_ends(cpu)
        if not self._depth[cpu.index]:
            raise NetstackError(EPERM, f"pserialize_read_exit on {cpu!r}: no section is open")
        self._depth[cpu.index] -= 1
        self.psz.read_exit(cpu.index)
        splx(cpu, s)

    @contextmanager
    def section(self, cpu: Cpu) -> Iterator[None]:
        """A section as a ``with`` block."""
        s = self.read_enter(cpu)
        try:
            yield
        finally:
            self.read_exit(cpu, s)

    def depth(self, cpu: Cpu) -> int:
        """Sections open on a CPU; what compiled code opens inside of one is not counted."""
        return max(self._depth[cpu.index], 1) if self.psz.in_section(cpu.index) else 0

    def perform(self, timeout_s: float = 10.0) -> None:
        """Wait until every section that is open now has ended.

        Context: thread or control thread, not inside a section; performers take turns.
        Raises:  NetstackError -- EDEADLK, from an interrupt or softint, inside a section, or no
                 reader can go on; ETIMEDOUT.  The last two name the CPUs that hold it up.
        """
        assert_callable_from(self._engine, "pserialize_perform")
        here = self._engine.curcpu()
        if here is not None and self.psz.in_section(here.index):
            raise NetstackError(
                EDEADLK, f"pserialize_perform in a read section of {here!r} waits for itself"
            )
        debug = self._engine.lockdebug
        with self._writer:
            if debug is not None:
                debug.wait_for(GRACE_PERIOD)
            is_over = False

            def has_passed() -> bool:
                nonlocal is_over
                is_over = is_over or self.psz.perform_poll() == 0
                return is_over

            self.psz.perform_begin()
            watch = _Watch(self)
            try:
                self._engine.wait_until(has_passed, "readers to leave (pserialize)", timeout_s)
            except NetstackError as error:
                if error.errno not in (ETIMEDOUT, EDEADLK) or not self.psz.waiting_for():
                    raise
                found = "\n  ".join(str(stall) for stall in watch.report())
                text = f"pserialize: {error.strerror}; held up by\n  {found}"
                raise NetstackError(error.errno, text) from error
            finally:
                watch.end()

class _Watch:
    """The stall detector of one grace period: reports the CPUs that do not get on."""

    def __init__(self, owner: Pserialize) -> None:
        self._owner = owner
        self._engine = owner._engine
        self._start_ns = self._engine.now_ns()
        self._before = [self._counts(cpu) for cpu in self._engine.cpus]
        self._looks = 0
        self._is_ended = False
        self._timer = self._arm(owner.stall_s)

    def end(self) -> None:
        """Stop looking."""
        self._is_ended = True
        self._timer.cancel()

    def _arm(self, seconds: float) -> Timer:
        when_ns = self._start_ns + round(seconds * NS_PER_S)
        return self._engine.at(when_ns, self._look, background=True)

    def _look(self) -> None:
        """Warn, and look again when twice the time is over."""
        if self._is_ended or not self._owner.psz.waiting_for():
            return
        self._owner.stalled += self._looks == 0
        self._looks += 1
        self._timer = self._arm(self._owner.stall_s * 2**self._looks)
        if self._is_ended:  # meanwhile, by the thread that waits
            self._timer.cancel()
        waited_s = self._waited_s()
        for stall in self.report():
            self._owner.stalls.append(stall)
            text = f"grace period waits for {waited_s:.3g} s: {stall}"
            warnings.warn(text, StallWarning, stacklevel=2)

    def report(self) -> list[GracePeriodStall]:
        """Describe the CPUs that are still waited for."""
        cpus = self._engine.cpus
        return [self._describe(cpus[index]) for index in self._owner.psz.waiting_for()]

    def _describe(self, cpu: Cpu) -> GracePeriodStall:
        before, now = self._before[cpu.index], self._counts(cpu)
        return GracePeriodStall(
            cpu.index,
            self._waited_s(),
            cpu.context or "idle",
            cpu.handler,
            cpu.spl,
            self._owner.depth(cpu),
            (now[0] + 1 >> 1) - (before[0] + 1 >> 1),
            now[1] - before[1],
            now[2] - before[2],
            tuple(stack_of(cpu)),
        )

    def _counts(self, cpu: Cpu) -> tuple[int, int, int]:
        sections, switches = self._owner.psz.checkpoints(cpu.index)
        return sections, switches, cpu.block.counters["loops"]

    def _waited_s(self) -> float:
        return (self._engine.now_ns() - self._start_ns) / NS_PER_S
