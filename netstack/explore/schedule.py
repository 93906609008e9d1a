"""One schedule of one scenario: run it, and say how it ended.

A failure is any exception that comes out of the scenario: a refused audit, an assertion, an error of
the stack, a deadlock (which lists who waits for what).  A thread of the scenario (``Machine.spawn``)
that has not ended when the scenario returns is one too, and so is an exception in a handler that the
scenario did not let come out.

Context: the control program, inside ``swapped``.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from typing import NamedTuple

from netstack.errors import NetstackError
from netstack.explore.swap import BUILDS
from netstack.machine import explore_point
from netstack.machine.explore_kernel import hooked
from netstack.machine.explore_point import Chooser, Exploration, Step

__all__ = ["Failure", "Outcome", "Scenario", "run_schedule", "undisturbed"]

Scenario = Callable[[], object]


class Failure(NamedTuple):
    """What went wrong in a schedule."""

    kind: str  # name of the exception, or "leaked thread"
    message: str
    where: str  # the scenario's or the stack's line

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" + (f" ({self.where})" if self.where else "")


class Outcome(NamedTuple):
    """How a schedule ended.

    ``state`` is a digest of what the machines counted and the scenario returned; ``digest`` of that,
    of every handler activation with its time and of every recorded step.
    """

    failure: Failure | None
    steps: int
    state: str
    digest: str
    record: list[Step]


def run_schedule(
    scenario: Scenario,
    chooser: Chooser,
    *,
    is_coarse: bool = False,
    is_delaying: bool = False,
    is_recording: bool = False,
    step_limit: int = 50_000,
) -> Outcome:
    """Run a scenario once, each decision by ``chooser``, whose schedule has begun.

    Args: is_coarse -- a kernel is one step; else each of its atomic accesses is.
          is_delaying -- fine grain only: stores inside kernels may become visible late.
    """
    record: list[Step] | None = [] if is_recording else None
    exploration = Exploration(
        chooser, is_delaying=is_delaying, record=record, step_limit=step_limit
    )
    explore_point.begin(exploration)
    failure = None
    result: object = None
    hooks = nullcontext() if is_coarse else hooked(BUILDS, is_delaying)
    try:
        with hooks:
            result = scenario()
        failure = _left_behind(exploration)
    except Exception as error:
        failure = _failure(error)
        del error
    finally:
        for engine in exploration.engines:
            engine.close()
        explore_point.end()
    state = blake2b(repr((result, exploration.states)).encode(), digest_size=8).hexdigest()
    trace = blake2b(digest_size=16)
    for engine in exploration.engines:
        trace.update(engine.digest().encode())
    trace.update(f"{failure} {state} {exploration.steps} {record}".encode())
    return Outcome(failure, exploration.steps, state, trace.hexdigest(), record or [])


def _left_behind(exploration: Exploration) -> Failure | None:
    for engine in exploration.engines:
        left = [lwp for lwp in engine.threads if not lwp.is_done]
        if left:
            names = ", ".join(f"{lwp.name} waits for {lwp.waits_for or 'a CPU'}" for lwp in left)
            return Failure("leaked thread", names, "")
    return None


def _failure(error: Exception) -> Failure:
    frames = traceback.extract_tb(error.__traceback__)
    place = ""
    if frames:
        path = frames[-1].filename.replace("\\", "/")
        at = path.rfind("netstack/")
        place = f"{path[at:] if at >= 0 else path.rpartition('/')[2]}:{frames[-1].lineno}"
    text = str(error)
    if isinstance(error, NetstackError):
        text = error.strerror or text
    notes = "; ".join(getattr(error, "__notes__", ()))
    return Failure(type(error).__name__, text + (f" [{notes}]" if notes else ""), place)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector from running inside schedules: it would run at other steps each time."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
