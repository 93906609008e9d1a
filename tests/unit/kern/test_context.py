"""Table 1 of the paper as data, and its guard."""

from errno import EDEADLK

import pytest
from sim.rig import Device, current, make

from netstack import NetstackError
from netstack.kern.context import FACILITIES, assert_callable_from, context_of
from netstack.kern.lockdebug import LockError

# (1) usable on MP, (2) in hardware interrupts, sleepable inside, reentrant: as printed.
TABLE_1 = {
    "KERNEL_LOCK": (True, True, True, True),
    "spl": (False, True, True, True),
    "mutex (spin)": (True, True, False, False),
    "mutex (adaptive)": (True, False, True, False),
    "rwlock": (True, False, True, False),
    "pserialize (reader)": (True, False, False, False),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_the_rows_are_the_paper_s(name: str) -> None:
    row = FACILITIES[name]
    printed = (row.usable_on_mp, "hard" in row.contexts, row.may_sleep_inside, row.is_reentrant)
    assert printed == TABLE_1[name]


def test_the_critical_sections_are_the_paper_s() -> None:
    inside = {name: FACILITIES[name].callable_inside for name in TABLE_1}
    spin_only = [name for name, what in inside.items() if what == "mutex (spin)"]
    assert spin_only == ["mutex (spin)", "pserialize (reader)"]
    assert set(inside.values()) == {"all", "mutex (spin)"}


def refused(facility: str, context: str) -> bool:
    """Ask the guard from a context."""
    engine = make()
    answers: list[bool] = []

    def ask(_: object = None) -> None:
        assert context_of(engine) == context and current(engine).context == context
        try:
            assert_callable_from(engine, facility)
            answers.append(False)
        except NetstackError as error:
            assert error.errno == EDEADLK and facility in str(error) and context in str(error)
            answers.append(True)

    if context == "thread":
        engine.spawn(ask)
    elif context == "soft":
        si = engine.softints.establish("net", ask)
        engine.softints.schedule_cpu(si, 0)
    else:
        Device(engine, "dev", then=ask).fire()
    engine.run()
    return answers[0]


@pytest.mark.parametrize("context", ["hard", "soft", "thread"])
@pytest.mark.parametrize("facility", FACILITIES)
def test_the_guard_knows_every_cell(facility: str, context: str) -> None:
    assert refused(facility, context) is (context not in FACILITIES[facility].contexts)


def test_the_main_program_counts_as_a_thread() -> None:
    engine = make()
    assert context_of(engine) == "thread"
    for facility in FACILITIES:
        assert_callable_from(engine, facility)


def test_a_handler_that_leaves_a_section_open_is_told() -> None:
    engine = make()
    si = engine.softints.establish("net", lambda _: engine.psz.read_enter(0), name="leaky")
    engine.softints.schedule_cpu(si, 0)
    with pytest.raises((AssertionError, LockError), match="leaky left a pserialize read section open"):
        engine.run()
    engine.psz.read_exit(0)
