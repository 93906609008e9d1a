"""intrctl: what an operator or a test does with interrupts (paper §4.2; NetBSD intrctl(8)).

The command and the API take the same way: ``Machine.intrctl``.
"""

from collections.abc import Callable, Iterable, Sequence

from netstack.machine.api import Engine, IntrRow

__all__ = ["IntrCtl"]


class IntrCtl:
    """Interrupts of one machine.

    Args: moved -- called after bindings have changed: drivers choose their TX queues by them.
    """

    def __init__(self, engine: Engine, moved: Callable[[], None]) -> None:
        self._engine = engine
        self._moved = moved

    def list(self) -> Sequence[IntrRow]:
        """Return one row per interrupt: name, id, counts by CPU, affinity, devices."""
        return self._engine.intrs.list()

    def affinity(self, name: str, cpu: int | Iterable[int]) -> tuple[int, ...]:
        """Bind an interrupt (``wm0 RX1``, or its id) to the lowest CPU of a set; return the old set.

        Context: thread or control thread; nothing is lost or taken twice while it moves.
        Raises:  NetstackError: ENOENT (no such interrupt), EINVAL (no such CPU, or shielded), EBUSY.
        """
        intrs = self._engine.intrs
        old = intrs.distribute(intrs.find(name), cpu)
        self._moved()
        return old

    def intr(self, cpu: int) -> None:
        """Let a CPU take interrupts again; moves none back.  Raises: NetstackError(EINVAL)."""
        self._engine.intrs.set_intr(cpu, True)

    def nointr(self, cpu: int) -> None:
        """Shield a CPU: its interrupts move to the lowest other.

        Raises: NetstackError: EINVAL (no such CPU), ENOENT (no other CPU; the shield stays).
        """
        self._engine.intrs.set_intr(cpu, False)
        self._moved()
