"""Who may call what from where: Table 1 of the paper as data, and the running of a handler.

``assert_callable_from`` is the first line of every facility that some context may not use.  Which
context is checked in every build; what the caller holds is, where LOCKDEBUG is on (the checked
build, ``Machine(lockdebug=True)``).  ``docs/contexts.md`` shows the table; a test compares the two,
and another makes every call from every context.
"""

from collections.abc import Callable
from errno import EDEADLK
from typing import Any, NamedTuple

from netstack.errors import NetstackError
from netstack.machine.api import Context, Cpu, Engine, caller_begins, caller_ends

__all__ = [
    "FACILITIES",
    "FOOTNOTES",
    "TABLE_1",
    "Facility",
    "assert_callable_from",
    "context_of",
    "may_use_inside",
    "run_handler",
    "table_text",
]

HARD: Context = "hard"
SOFT: Context = "soft"
THREAD: Context = "thread"

ANYWHERE = (HARD, SOFT, THREAD)
NOT_HARD = (SOFT, THREAD)
THREADS = (THREAD,)

ALL = "all"
SPIN = "mutex (spin)"
NO_WAIT = "what never waits"
NOTHING = ""  # a call: it has no inside


class Facility(NamedTuple):
    """A row of Table 1.  The first six fields are its columns, in its order."""

    usable_on_mp: bool  # does it affect other CPUs?
    contexts: tuple[Context, ...]  # where it may be called
    may_sleep_inside: bool | None  # None: a call, which has no inside
    is_reentrant: bool | None
    callable_inside: str  # what its critical section may use: all, or where is_leaf is true
    note: str = ""
    notes: tuple[int, ...] = ()  # of FOOTNOTES
    is_leaf: bool = False  # may be used with a spin mutex held and in a read section

    @property
    def is_section(self) -> bool:
        """True for what one is in; False for a call."""
        return self.callable_inside != NOTHING


FOOTNOTES = {
    1: "Does it affect activities on other CPUs?",
    2: "May it be used in a hardware interrupt handler?",
    3: "What may be used in its critical section.",
    4: "It must not lower the SPL.",
    5: "Possible, but not recommended.",
    6: "Possible, but not expected: the checked build refuses it.",
    7: "In a hardware interrupt only under splhigh (paper §3.2.2, footnote 2).",
    8: "Up to the level it was made for.",
    9: "Only spin mutexes, and calls that never wait (column `leaf`).",
}


def _call(
    contexts: tuple[Context, ...], note: str, mp: bool = True, leaf: bool = False, notes: tuple[int, ...] = ()
) -> Facility:
    return Facility(mp, contexts, None, None, NOTHING, note, notes, leaf)


# As the paper prints it.
TABLE_1: dict[str, Facility] = {
    "KERNEL_LOCK": Facility(True, ANYWHERE, True, True, ALL, "released over sleep"),
    "spl": Facility(False, ANYWHERE, True, True, ALL, "one CPU only", (4,), True),
    "mutex (spin)": Facility(True, ANYWHERE, False, False, SPIN, "raises the SPL", (8, 9), True),
    "mutex (adaptive)": Facility(True, NOT_HARD, True, False, ALL, "a softint blocks", (5,)),
    "rwlock": Facility(True, NOT_HARD, True, False, ALL, "a softint blocks", (5,)),
    "pserialize (reader)": Facility(
        True, NOT_HARD, False, False, SPIN, "no softint meanwhile", (6, 7, 9)
    ),
}

# The later facilities, and the calls that the same rules speak about.
FACILITIES: dict[str, Facility] = {
    **TABLE_1,
    "psref (held)": Facility(False, NOT_HARD, True, True, ALL, "stays on its CPU", (8,), True),
    "refcount (held)": Facility(True, ANYWHERE, True, True, ALL, "may move", (), True),
    "percpu reference": Facility(False, ANYWHERE, False, True, NO_WAIT, "stays on its CPU", (), True),
    "pserialize_perform": _call(THREADS, "waits for readers"),
    "psref_target_destroy": _call(THREADS, "waits for holders"),
    "psref_acquire": _call(NOT_HARD, "in a read section", mp=False, leaf=True, notes=(8,)),
    "wait_until": _call(THREADS, "waits for a condition"),
    "cv_wait": _call(THREADS, "waits; gives up its own mutex, spin or adaptive"),
    "cv_signal": _call(ANYWHERE, "never waits", leaf=True),
    "tsleep": _call(THREADS, "waits"),
    "wakeup": _call(ANYWHERE, "never waits", leaf=True),
    "softint_establish": _call(THREADS, "may wait"),
    "softint_schedule": _call(ANYWHERE, "never waits", mp=False, leaf=True),
    "interrupt_distribute": _call(THREADS, "waits for a CPU to leave its handler"),
    "callout_schedule": _call(ANYWHERE, "never waits", leaf=True),
    "callout_halt": _call(THREADS, "waits for the function"),
    "workqueue_enqueue": _call(ANYWHERE, "never waits", leaf=True, notes=(8,)),
    "workqueue_wait": _call(THREADS, "waits for the function"),
    "xc_broadcast": _call(THREADS, "may wait for an earlier one"),
    "xc_wait": _call(THREADS, "waits for all CPUs"),
    "percpu_alloc": _call(THREADS, "may wait"),
    "pcq_put": _call(ANYWHERE, "never waits", leaf=True),
    "pcq_get": _call(ANYWHERE, "never waits; one consumer", leaf=True),
    "pktq_enqueue": _call(ANYWHERE, "never waits", leaf=True),
    "pktq_barrier": _call(THREADS, "waits for all CPUs"),
    "pool_cache_get": _call(ANYWHERE, "PR_NOWAIT: never waits", leaf=True, notes=(8,)),
    "pool_cache_get (PR_WAITOK)": _call(THREADS, "waits for memory"),
    "pool_cache_invalidate": _call(THREADS, "waits for all CPUs"),
    "if_transmit": _call(ANYWHERE, "never waits", leaf=True),
}


def may_use_inside(outer: str, inner: str) -> bool:
    """Say whether ``inner`` may be used in the critical section of ``outer``, by the table.

    The same name stands for the same object: then the question is whether it is reentrant.
    """
    row = FACILITIES[outer]
    if outer == inner:
        return bool(row.is_reentrant)
    if row.callable_inside == NO_WAIT and inner == "pserialize (reader)":
        return True
    return row.callable_inside == ALL or FACILITIES[inner].is_leaf


def table_text() -> str:
    """Return the table in Markdown, as ``docs/contexts.md`` shows it."""
    columns = "facility|other CPUs (1)|hard (2)|softint|thread|sleep inside|reentrant"
    head = (*columns.split("|"), "callable inside (3)", "leaf", "notes")
    rows: list[tuple[str, ...]] = [head, tuple("-" for _ in head)]
    for name, row in FACILITIES.items():
        where = (_word(context in row.contexts) for context in ANYWHERE)
        inside = (_word(row.may_sleep_inside), _word(row.is_reentrant), row.callable_inside or "–")
        numbers = "".join(f" ({number})" for number in row.notes)
        cells = (name, _word(row.usable_on_mp), *where, *inside, _word(row.is_leaf), row.note + numbers)
        rows.append(cells)
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([*lines, "", *(f"({number}) {text}" for number, text in FOOTNOTES.items())])


def _word(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "no"


def context_of(engine: Engine) -> Context:
    """Return the context of the caller; a control thread counts as a thread."""
    cpu = engine.curcpu()
    return THREAD if cpu is None else cpu.context or THREAD


def assert_callable_from(engine: Engine, facility: str) -> None:
    """Refuse a call that Table 1 forbids in the caller's context.

    Raises: NetstackError -- EDEADLK, as the call would wait where nothing can be waited for.
    """
    context = context_of(engine)
    row = FACILITIES[facility]
    debug = engine.lockdebug
    if debug is not None and not row.is_leaf:
        debug.enters(facility)
    if context not in row.contexts:
        cpu = engine.curcpu()
        where = f"{cpu!r}" if cpu is not None else "a control thread"
        raise NetstackError(
            EDEADLK,
            f"{facility}: not from {context} interrupt context ({where}); "
            f"hand the work to a {' or '.join(row.contexts)} context",
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
    caller = caller_begins(cpu)
    debug = engine.lockdebug
    mark = debug.handler_begins(cpu) if debug is not None else None
    in_section = engine.psz.in_section(cpu.index)
    try:
        engine.handler_starts(cpu)
        fn(arg)
        if debug is not None:
            debug.handler_ends(cpu, mark, name)
        if engine.psz.in_section(cpu.index) and not in_section:
            raise AssertionError(f"{name} left a pserialize read section open")
    except BaseException as error:
        engine.handler_failed(cpu, error)
    finally:
        caller_ends(caller)
        cpu.spl, cpu.context, cpu.handler = before
