"""Who may call what from where: Table 1 of the paper as data, and the running of a handler.

``assert_callable_from`` is the first line of every facility that some context may not use.
"""

from collections.abc import Callable
from errno import EDEADLK
from typing import Any, NamedTuple

from netstack.errors import NetstackError
from netstack.machine.api import Context, Cpu, Engine

__all__ = ["FACILITIES", "Facility", "assert_callable_from", "context_of", "run_handler"]

HARD: Context = "hard"
SOFT: Context = "soft"
THREAD: Context = "thread"

ANYWHERE = (HARD, SOFT, THREAD)


class Facility(NamedTuple):
    """A row of Table 1, with the contexts of softint(9), psref(9) and pserialize(9) added."""

    usable_on_mp: bool  # does it affect other CPUs?
    contexts: tuple[Context, ...]  # where it may be called
    may_sleep_inside: bool
    is_reentrant: bool
    callable_inside: str  # what its critical section may use
    note: str = ""


# Rows 1-6 are Table 1 in its order; the rest are the calls the same section speaks about.
FACILITIES: dict[str, Facility] = {
    "KERNEL_LOCK": Facility(True, ANYWHERE, True, True, "all", "released over sleep"),
    "spl": Facility(False, ANYWHERE, True, True, "all", "must not lower the SPL"),
    "mutex (spin)": Facility(True, ANYWHERE, False, False, "mutex (spin)"),
    "mutex (adaptive)": Facility(True, (SOFT, THREAD), True, False, "all", "sleep discouraged"),
    "rwlock": Facility(True, (SOFT, THREAD), True, False, "all", "sleep discouraged"),
    "pserialize (reader)": Facility(
        True, (SOFT, THREAD), False, False, "mutex (spin)", "hard interrupts: only under splhigh"
    ),
    "pserialize_perform": Facility(True, (THREAD,), True, False, "all", "waits"),
    "wait_until": Facility(True, (THREAD,), True, False, "all", "waits"),
    "softint_establish": Facility(True, (THREAD,), True, False, "all", "may wait"),
    "softint_schedule": Facility(False, ANYWHERE, False, True, "all", "on the current CPU"),
    "psref_acquire": Facility(False, (SOFT, THREAD), True, True, "all", "hard: class IPL"),
    "psref_target_destroy": Facility(True, (THREAD,), True, False, "all", "waits"),
    "interrupt_distribute": Facility(True, (THREAD,), True, False, "all", "waits"),
    "workqueue_wait": Facility(True, (THREAD,), True, False, "all", "waits"),
    "if_transmit": Facility(True, ANYWHERE, False, False, "mutex (spin)"),
}


def context_of(engine: Engine) -> Context:
    """Return the context of the caller; a control thread counts as a thread."""
    cpu = engine.curcpu()
    return THREAD if cpu is None else cpu.context or THREAD


def assert_callable_from(engine: Engine, facility: str) -> None:
    """Refuse a call that Table 1 forbids in the caller's context.

    Raises: NetstackError -- EDEADLK, as the call would wait where nothing can be waited for.
    """
    context = context_of(engine)
    if context not in FACILITIES[facility].contexts:
        cpu = engine.curcpu()
        where = f"{cpu!r}" if cpu is not None else "a control thread"
        raise NetstackError(
            EDEADLK,
            f"{facility}: not from {context} interrupt context ({where}); "
            f"hand the work to a {' or '.join(FACILITIES[facility].contexts)} context",
        )


def run_handler(
    engine: Engine,
    cpu: Cpu,
    context: Context,
    ipl: int,
    name: str,
    fn: Callable[[Any], object],
    arg: Any,
) -> None:
    """Run a handler on ``cpu`` in a context of its own, at its level, and put the old one back.

    Context: ``cpu`` itself.  What became pending meanwhile is the caller's to deliver.
    """
    before = (cpu.spl, cpu.context, cpu.handler)
    cpu.spl = max(cpu.spl, int(ipl))
    cpu.context = context
    cpu.handler = name
    in_section = engine.psz.in_section(cpu.index)
    try:
        engine.handler_starts(cpu)
        fn(arg)
        if engine.psz.in_section(cpu.index) and not in_section:
            raise AssertionError(f"{name} left a pserialize read section open")
    except BaseException as error:
        engine.handler_failed(cpu, error)
    finally:
        cpu.spl, cpu.context, cpu.handler = before
