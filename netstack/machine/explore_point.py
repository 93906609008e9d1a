"""The exploration under way: who decides, what was decided, and ``point``, where it is decided.

A scenario under exploration (``netstack/explore``) builds its machines on ``machine/explore_engine``
engines.  What is between two calls of ``point`` is one step; before each step the chooser says which
actor goes on.  Outside an exploration ``point`` does nothing, and nothing of the stack calls it: the
explorer puts the calls in place (``explore/swap.py``) when it starts.

Context: one OS thread, the one that explores.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from netstack.machine.explore_engine import ExploringEngine

__all__ = [
    "CONTROL",
    "CPU_LIMIT",
    "DRAIN",
    "EVENT",
    "INTR",
    "Chooser",
    "Exploration",
    "Step",
    "StepLimitError",
    "active",
    "before",
    "begin",
    "elapsed_s",
    "end",
    "point",
    "spin",
]

# Actors, as bits of what may be chosen: a CPU goes on; a CPU takes an interrupt or softint; a kept
# store of a CPU becomes visible; the next event comes; the waiting control program goes on.
CPU_LIMIT = 16
INTR = 16
DRAIN = 32
EVENT = 48
CONTROL = 49


class Chooser(Protocol):
    """Who decides; see ``_fast/chooser``."""

    def choose(self, enabled: int, current: int) -> int:
        """Return the number of one bit set in ``enabled``; ``current`` is who ran, or -1."""


class Step(NamedTuple):
    """One decision for reading: what the chosen actor is about to do."""

    actor: int
    enabled: int  # bits it was chosen from
    current: int  # who ran before, -1: it cannot go on
    cpu: int  # -1: no CPU
    context: str
    handler: str
    what: str


class StepLimitError(AssertionError):
    """A schedule has no end: some CPUs make no progress."""


class Exploration:
    """One schedule of one scenario.

    Args: chooser -- decides.   is_delaying -- stores inside kernels may become visible late.
          record -- steps are appended here; None: not wanted.   step_limit -- steps of a schedule.
    """

    def __init__(
        self,
        chooser: Chooser,
        *,
        is_delaying: bool = False,
        record: list[Step] | None = None,
        step_limit: int = 50_000,
    ) -> None:
        self.choose = chooser.choose
        self.is_delaying = is_delaying
        self.record = record
        self.step_limit = step_limit
        self.steps = 0
        self.engines: list[ExploringEngine] = []
        self.on_cpu: ExploringEngine | None = None  # the engine that has a CPU running
        self.states: list[str] = []  # one per machine that was closed


_active: Exploration | None = None

elapsed_s = perf_counter  # of the host, for budgets


def active() -> Exploration | None:
    """Return the exploration under way."""
    return _active


def begin(exploration: Exploration) -> None:
    """Let an exploration be the one under way."""
    global _active
    _active = exploration


def end() -> None:
    """No exploration is under way any more."""
    global _active
    _active = None


def point(what: str) -> None:
    """Let the chooser decide who goes on before the caller does ``what``; nothing outside a CPU."""
    if _active is not None and _active.on_cpu is not None:
        _active.on_cpu.point(what)


def before(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with a decision before each call."""

    def decided(*args: Any, **kwargs: Any) -> Any:
        if _active is not None and _active.on_cpu is not None:
            _active.on_cpu.point(what)
        return function(*args, **kwargs)

    decided.__name__ = getattr(function, "__name__", what)
    decided.__wrapped__ = function  # type: ignore[attr-defined]
    return decided


def spin(what: str) -> bool:
    """Let others go on while the caller spins for a lock; False when nobody explores.

    Context: a CPU, an event, or the control program.
    Raises:  NetstackError -- EDEADLK, nobody is left who could release it.
    """
    if _active is None or not _active.engines:
        return False
    (_active.on_cpu or _active.engines[-1]).pause(what)
    return True
