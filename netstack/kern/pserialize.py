"""Passive serialization: lock-free read sections, and the wait for readers (paper §3.1.3).

The mechanism is compiled (``_fast/pserialize``); here are the rules of contexts.  A writer unlinks
an object, calls ``perform``, and may free it: every section that was open has ended.

    with mutex:
        table.remove(entry)
        engine.pserialize.perform()
    entry.free()
"""

from collections.abc import Iterator
from contextlib import contextmanager

from netstack._fast.pserialize import PSerialize
from netstack.kern.context import assert_callable_from
from netstack.kern.mutex import Mutex
from netstack.kern.spl import IPL, splraise, splx
from netstack.machine.api import Cpu, Engine

__all__ = ["Pserialize"]


class Pserialize:
    """Sections and grace periods on one compiled object; by default the machine's own."""

    def __init__(self, engine: Engine, psz: PSerialize | None = None) -> None:
        self.psz = psz if psz is not None else engine.psz
        self._engine = engine
        self._writer = Mutex(engine, "pserialize")

    def read_enter(self, cpu: Cpu) -> int:
        """Open a section on the current CPU; return the SPL for ``read_exit``.

        Context: softint or thread; a hard handler only at ``IPL.HIGH``.  No softint runs on this
                 CPU, no waiting and no ``charge`` until the exit.
        Source:  NetBSD pserialize_read_enter(): splsoftserial.
        """
        if cpu.context == "hard" and cpu.spl < IPL.HIGH:
            assert_callable_from(self._engine, "pserialize (reader)")
        s = splraise(cpu, IPL.SOFTSERIAL)
        self.psz.read_enter(cpu.index)
        return s

    def read_exit(self, cpu: Cpu, s: int) -> None:
        """Close the section; what was found inside may not be used any more."""
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

    def perform(self, timeout_s: float = 10.0) -> None:
        """Wait until every section that is open now has ended.

        Context: thread or control thread, not inside a section; performers take turns.
        Raises:  NetstackError -- EDEADLK, from an interrupt or softint, or no reader can go on;
                 ETIMEDOUT.
        """
        assert_callable_from(self._engine, "pserialize_perform")
        with self._writer:
            self.psz.perform_begin()
            is_over = False

            def has_passed() -> bool:
                nonlocal is_over
                is_over = is_over or self.psz.perform_poll() == 0
                return is_over

            self._engine.wait_until(has_passed, "readers to leave (pserialize)", timeout_s)
