"""Table 1, cell by cell, with the real calls: a "no" is an error that says why, a "yes" works.

The matrix comes from the data of ``kern/context.py``: each facility from each context, in the
critical section of each other, and in its own.
"""

from collections.abc import Callable
from errno import EDEADLK
from typing import Any

import pytest
from unit.kern.facilities import RECIPES, Recipe, prepare
from unit.kern.lockrig import checked, run_in

from netstack import NetstackError
from netstack.kern.context import FACILITIES, FOOTNOTES, TABLE_1, may_use_inside, table_text
from netstack.kern.lockdebug import RULES, LockError
from netstack.kern.mutex import Mutex
from netstack.kern.spl import IPL, splhigh, splx
from netstack.machine.virtual import VirtualEngine

SECTIONS = [name for name, row in FACILITIES.items() if row.is_section]
CONTEXTS = ("hard", "soft", "thread", "control")

# What the paper prints: (1), (2), sleepable inside, reentrant, callable facilities.
PRINTED = {
    "KERNEL_LOCK": ("yes", "yes", "yes", "yes", "all"),
    "spl": ("no", "yes", "yes", "yes", "all"),
    "mutex (spin)": ("yes", "yes", "no", "no", "mutex (spin)"),
    "mutex (adaptive)": ("yes", "no", "yes", "no", "all"),
    "rwlock": ("yes", "no", "yes", "no", "all"),
    "pserialize (reader)": ("yes", "no", "no", "no", "mutex (spin)"),
}


def outcome(engine: VirtualEngine, context: str, fn: Callable[[], object]) -> NetstackError | None:
    """Run ``fn`` in a context; return what it was refused with."""
    refusals: list[NetstackError | None] = []

    run_in(engine, context, lambda: refusals.append(refusal_of(fn)))
    engine.run()
    assert len(refusals) == 1, "it did not come to an end"
    return refusals[0]


def refusal_of(fn: Callable[[], object]) -> NetstackError | None:
    """Call ``fn``; return what it was refused with."""
    try:
        fn()
    except NetstackError as error:
        return error
    return None


def compare(cell: str, may: bool, error: NetstackError | None, *words: str) -> None:
    """Check one cell: the answer, and that a refusal names what is wanted."""
    if may:
        assert error is None, f"{cell}: the table says yes; refused with: {error}"
        return
    assert error is not None, f"{cell}: the table says no; it worked"
    assert error.errno == EDEADLK
    text = str(error)
    missing = [word for word in words if word not in text]
    assert not missing, f"{cell}: {missing} not in: {text}"
    if isinstance(error, LockError):
        assert RULES[error.rule] in text


def prepared(name: str, *others: str) -> tuple[VirtualEngine, Any, Recipe, Any]:
    engine, debug = prepare(name, *others)
    recipe = RECIPES[name]
    return engine, debug, recipe, recipe.make(engine)


def test_the_rows_are_the_paper_s() -> None:
    def word(value: bool | None) -> str:
        return {True: "yes", False: "no", None: "-"}[value]

    rows = {
        name: (
            word(row.usable_on_mp),
            word("hard" in row.contexts),
            word(row.may_sleep_inside),
            word(row.is_reentrant),
            row.callable_inside,
        )
        for name, row in TABLE_1.items()
    }
    assert rows == PRINTED and list(FACILITIES)[:6] == list(PRINTED)


def test_every_row_has_a_recipe() -> None:
    assert set(FACILITIES) - set(RECIPES) == set(), "calls without a test"
    assert set(RECIPES) - set(FACILITIES) == set()
    assert [name for name in RECIPES if RECIPES[name].section] == SECTIONS


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", FACILITIES)
def test_where_it_may_be_called(name: str, context: str) -> None:
    engine, debug, recipe, thing = prepared(name)
    if context == "control" and recipe.needs_cpu:
        pytest.skip("a control thread has no CPU")
    may = context.replace("control", "thread") in FACILITIES[name].contexts
    error = outcome(engine, context, lambda: recipe.use(thing))
    compare(f"{name} from {context}", may, error, "hard" if context == "hard" else "soft")
    assert debug.findings == isinstance(error, LockError)
    assert debug.held() == []


@pytest.mark.parametrize("context", ["soft", "thread"])
@pytest.mark.parametrize("inner", FACILITIES)
@pytest.mark.parametrize("outer", SECTIONS)
def test_what_may_be_used_inside(outer: str, inner: str, context: str) -> None:
    rows = FACILITIES[outer], FACILITIES[inner]
    if not all(context in row.contexts for row in rows):
        pytest.skip("one of them is refused there by itself")
    engine, debug, recipe, thing = prepared(outer, inner)
    other = RECIPES[inner]
    inner_thing = thing if inner == outer else other.make(engine)

    def both() -> None:
        assert recipe.section is not None
        with recipe.section(thing):
            other.use(inner_thing)

    error = outcome(engine, context, both)
    compare(f"{inner} inside {outer}, {context}", may_use_inside(outer, inner), error)
    assert debug.held() == [], "a refusal leaves nothing behind"


@pytest.mark.parametrize("outer", SECTIONS)
def test_whether_one_may_sleep_inside(outer: str) -> None:
    engine, _, recipe, thing = prepared(outer)

    def nap() -> None:
        assert recipe.section is not None
        with recipe.section(thing):
            engine.sleep(1e-6)

    error = outcome(engine, "thread", nap)
    compare(f"sleep inside {outer}", bool(FACILITIES[outer].may_sleep_inside), error, "held:")


@pytest.mark.parametrize("outer", SECTIONS)
def test_whether_it_is_reentrant(outer: str) -> None:
    engine, _, recipe, thing = prepared(outer)

    def twice() -> None:
        assert recipe.section is not None
        with recipe.section(thing), recipe.section(thing):
            pass

    error = outcome(engine, "thread", twice)
    compare(f"{outer} twice", bool(FACILITIES[outer].is_reentrant), error, "worker")


# --- footnotes


@pytest.mark.parametrize("name", ["spl", "mutex (spin)", "mutex (adaptive)"])
def test_note_1_what_acts_on_other_cpus(name: str) -> None:
    """An spl holds off the interrupts of its own CPU only; a lock holds off the other CPU too."""
    engine, _, recipe, thing = prepared(name)
    ended: dict[str, int] = {}

    def work(who: str, cost: int) -> None:
        assert recipe.section is not None
        with recipe.section(thing):
            engine.charge("work", cost)
        ended[who] = engine.now_ns()

    engine.spawn(lambda: work("holder", 100_000), cpu=0)
    engine.spawn(lambda: (engine.charge("work", 1000), work("other", 10)), cpu=1)
    engine.run()
    assert (ended["other"] > ended["holder"]) is FACILITIES[name].usable_on_mp


def test_note_4_the_spl_is_not_lowered() -> None:
    engine, _ = checked()
    cpu = engine.cpus[0]
    error = outcome(engine, "hard", lambda: splx(cpu, IPL.NONE))
    assert isinstance(error, LockError) and error.rule == "SPL lowered"
    mutex = Mutex(engine, "the mutex", IPL.VM)

    def lower_under_a_mutex() -> None:
        with mutex:
            splx(cpu, IPL.SOFTNET)

    error = outcome(engine, "thread", lower_under_a_mutex)
    assert isinstance(error, LockError) and error.rule == "SPL lowered" and "the mutex" in str(error)


def test_note_7_a_hard_handler_reads_under_splhigh() -> None:
    engine, debug = checked()

    def read() -> None:
        cpu = engine.curcpu()
        assert cpu is not None
        s = splhigh(cpu)
        with engine.pserialize.section(cpu):  # type: ignore[attr-defined]
            pass
        splx(cpu, s)

    assert outcome(engine, "hard", read) is None and debug.findings == 0


def test_every_note_is_said_and_used() -> None:
    used = {number for row in FACILITIES.values() for number in row.notes} | {1, 2, 3}
    assert used == set(FOOTNOTES)


# --- with the checker off


@pytest.mark.parametrize("name", [name for name, row in FACILITIES.items() if "hard" not in row.contexts])
def test_the_context_is_checked_in_every_build(name: str) -> None:
    from sim.rig import make

    engine = make(2, lockdebug=False)
    thing = RECIPES[name].make(engine)
    error = outcome(engine, "hard", lambda: RECIPES[name].use(thing))
    compare(f"{name} from hard, unchecked", False, error, "hard")
    assert not isinstance(error, LockError)


SAMPLE = ("mutex (adaptive)", "pserialize_perform", "workqueue_wait", "mutex (spin)")


@pytest.mark.parametrize("name", SAMPLE)
def test_the_wall_machine_has_the_same_table(name: str, machine: Callable[..., Any]) -> None:
    """A sample: contexts of Python handlers, and sections of control threads."""
    m = machine(ncpu=2, clock="wall", lockdebug=True, mbufs=1024)
    recipe = RECIPES[name]
    thing = recipe.make(m.engine)
    refusals: list[NetstackError | None] = []

    def attempt(_: object) -> None:
        refusals.append(refusal_of(lambda: recipe.use(thing)))

    si = m.engine.softints.establish("net", attempt, name="handler")
    m.engine.softints.schedule_cpu(si, 1)
    m.run()
    compare(f"{name}, wall softint", "soft" in FACILITIES[name].contexts, refusals[0], "soft")
    for outer in {"mutex (spin)", "mutex (adaptive)"} - {name}:
        section = RECIPES[outer].section
        assert section is not None
        with section(RECIPES[outer].make(m.engine)):
            error = refusal_of(lambda: recipe.use(thing))
        compare(f"{name} inside {outer}, wall", may_use_inside(outer, name), error)


def test_the_text_of_the_table_is_markdown() -> None:
    lines = table_text().splitlines()
    columns = {line.count("|") for line in lines if line.startswith("|")}
    assert columns == {11}
    assert "| KERNEL_LOCK | yes | yes | yes | yes | yes | yes | all | no |" in lines[2]
