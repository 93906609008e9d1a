"""Every model holds in all its states, and fails with each of its mutants planted.

A mutant is a macro ``MUTANT_...`` of the model; it must fail with the violation named here, so that a
model which fails for another reason does not pass for one that can see.
"""

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from models.spin import MODELS, Verdict, check, missing_tools

DEADLOCK = "invalid end state"
FREED = "object"  # an object is used after it was freed
UNSENT = "head==tail"

Job = tuple[str, tuple[str, ...]]

# What must hold: model, macros, states at least (fewer would mean that the model lost its content).
HOLDS: list[tuple[str, tuple[str, ...], int]] = [
    ("pserialize", ("SEQCST",), 100_000),
    ("pserialize", ("MEMBARRIER",), 300_000),
    ("pserialize", ("SWITCH",), 400_000),
    ("pserialize", ("SWITCH", "SECTIONS=4", "READERS=1"), 20_000),
    ("member_delete", (), 10_000),
    ("member_delete", ("READERS=3",), 300_000),
    ("softint", (), 200_000),
    ("mutex", (), 100_000),
    ("mutex", ("CPUS=1",), 1_000),
    ("mutex", ("CPUS=3",), 500_000),
    ("ring", ("PCQ",), 200_000),
    ("ring", ("DRING",), 2_000),
    ("transmit", (), 1_000_000),
]

# What must fail: model, macros, mutant, a part of the violation.
FAILS: list[tuple[str, tuple[str, ...], str, str]] = [
    ("pserialize", ("SEQCST",), "NO_WAIT", FREED),
    ("pserialize", ("SEQCST",), "CPU0_ONLY", FREED),
    ("pserialize", ("SEQCST",), "LATE_ANNOUNCE", FREED),
    ("pserialize", ("SEQCST",), "EARLY_EXIT", FREED),
    ("pserialize", ("SEQCST",), "FREE_BEFORE_UNLINK", FREED),
    ("pserialize", ("SEQCST",), "NO_READER_FENCE", FREED),
    ("pserialize", ("SEQCST",), "NO_WRITER_FENCE", FREED),
    ("pserialize", ("MEMBARRIER",), "NO_WAIT", FREED),
    ("pserialize", ("MEMBARRIER",), "LATE_ANNOUNCE", FREED),
    ("pserialize", ("MEMBARRIER",), "NO_BARRIER", FREED),
    ("pserialize", ("MEMBARRIER",), "BARRIER_CPU0", FREED),
    ("pserialize", ("MEMBARRIER",), "BARRIER_BEFORE_UNLINK", FREED),
    ("pserialize", ("SWITCH",), "NO_WAIT", FREED),
    ("pserialize", ("SWITCH",), "SECTION_OVER_SWITCH", FREED),
    ("pserialize", ("SWITCH",), "IDLE_IN_SECTION", FREED),
    ("pserialize", ("SWITCH",), "IDLE_NO_FENCE", FREED),
    ("pserialize", ("SWITCH", "SECTIONS=3", "UPDATES=1"), "NO_SWITCH_FENCE", FREED),
    ("member_delete", (), "FOUND_OUTSIDE", "freed"),
    ("member_delete", (), "LATE_REFERENCE", "freed"),
    ("member_delete", (), "EARLY_RELEASE", "freed"),
    ("member_delete", (), "UNLINK_LAST", "freed"),
    ("member_delete", (), "REFERENCES_FIRST", "freed"),
    ("member_delete", (), "NO_PERFORM", "freed"),
    ("member_delete", (), "NO_REFERENCE_WAIT", "freed"),
    ("member_delete", (), "PURGE_FIRST", "entries==0"),
    ("member_delete", (), "LEARN_OUTSIDE", "entries==0"),
    ("softint", (), "NO_PENDING_CHECK", "(tail-head)<2"),
    ("softint", (), "LIFO", "drawn"),
    ("softint", (), "CLEAR_AFTER", "done"),
    ("softint", (), "TAKE_IN_TWO_STEPS", "done"),
    ("softint", (), "LOOK_FIRST", "done"),
    ("softint", (), "NO_SLEEP_FENCE", "done"),
    ("softint", (), "WAKE_FIRST", "done"),
    ("mutex", (), "IGNORE_KERNEL_LOCK", DEADLOCK),
    ("mutex", (), "SPIN_FOR_SLEEPER", DEADLOCK),
    ("mutex", (), "LOOK_BEFORE_QUEUE", DEADLOCK),
    ("mutex", (), "WAKE_BEFORE_RELEASE", DEADLOCK),
    ("mutex", (), "WAKE_NOT_KEPT", DEADLOCK),
    ("mutex", (), "KEEP_KERNEL_LOCK", DEADLOCK),
    ("mutex", (), "OWNER_CLEARED_LATE", DEADLOCK),
    ("mutex", (), "RETAKE_ONCE", "held"),
    ("ring", ("PCQ",), "FULL_LATE", "taken"),
    ("ring", ("PCQ",), "CLAIM_IN_TWO_STEPS", "taken"),
    ("ring", ("PCQ",), "WAKE_BEFORE_FILL", "taken"),
    ("ring", ("PCQ",), "PAYLOAD_LATE", "payload"),
    ("ring", ("PCQ",), "HEAD_FIRST", "taken"),
    ("ring", ("PCQ",), "HEAD_RELAXED", "taken"),
    ("ring", ("DRING",), "DEVICE_IGNORES_TAIL", "last"),
    ("ring", ("DRING",), "DONE_RELAXED", "last"),
    ("ring", ("DRING",), "READ_BEFORE_DONE", "last"),
    ("ring", ("DRING",), "TAIL_RELAXED", "taken"),
    ("transmit", (), "NO_HANDOVER", UNSENT),
    ("transmit", (), "NO_HANDOVER_FENCE", UNSENT),
    ("transmit", (), "NO_SECOND_TRY", UNSENT),
    ("transmit", (), "NO_LOSER_FENCE", UNSENT),
    ("transmit", (), "COMPLETE_KEEPS_FULL", UNSENT),
    ("transmit", (), "FULL_AFTER_EXIT", UNSENT),
    ("transmit", (), "TRY_NOT_ATOMIC", "inside==1"),
    ("transmit", (), "OVERTAKE", "last"),
]

needs_spin = pytest.mark.skipif(bool(missing_tools()), reason=f"missing: {missing_tools()}; install the package spin")


class Searches:
    """Searches that run beside the tests, as many at a time as there are processors."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)
        self._found: dict[Job, Future[Verdict]] = {}

    def start(self, model: str, macros: tuple[str, ...]) -> None:
        optimize = "-O0" if any(macro.startswith("MUTANT_") for macro in macros) else "-O1"
        self._found[model, macros] = self._pool.submit(check, model, macros, optimize=optimize)

    def result(self, model: str, macros: tuple[str, ...]) -> Verdict:
        return self._found[model, macros].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="session")
def searches(request: pytest.FixtureRequest) -> Iterator[Searches]:
    """Start what the selected tests will ask for."""
    searches = Searches()
    for item in request.session.items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if item.get_closest_marker("skipif") and "model" in params:
            mutant = params.get("mutant")
            searches.start(params["model"], params["macros"] + ((f"MUTANT_{mutant}",) if mutant else ()))
    yield searches
    searches.close()


def name(case: object) -> str | None:
    return " ".join(case) if isinstance(case, tuple) else None


@needs_spin
@pytest.mark.parametrize(("model", "macros", "states"), HOLDS, ids=name)
def test_model_holds(searches: Searches, model: str, macros: tuple[str, ...], states: int) -> None:
    verdict = searches.result(model, macros)
    print(f"{model} {' '.join(macros)}: {verdict}")
    assert not verdict.violation, verdict.trail
    assert verdict.states >= states, "the model is smaller than it was: is its content still there?"


@needs_spin
@pytest.mark.parametrize(("model", "macros", "mutant", "violation"), FAILS, ids=name)
def test_mutant_fails(searches: Searches, model: str, macros: tuple[str, ...], mutant: str, violation: str) -> None:
    verdict = searches.result(model, (*macros, f"MUTANT_{mutant}"))
    print(f"{model} {' '.join(macros)} {mutant}: {verdict.violation} after {verdict}")
    assert violation in verdict.violation


def test_every_mutant_of_every_model_is_listed() -> None:
    planted = {
        (path.stem, mutant)
        for path in MODELS.glob("*.pml")
        for mutant in re.findall(r"\bMUTANT_(\w+)", path.read_text(encoding="utf-8"))
    }
    assert planted == {(model, mutant) for model, _, mutant, _ in FAILS}


def test_each_model_has_three_mutants() -> None:
    for path in MODELS.glob("*.pml"):
        assert sum(model == path.stem for model, _, _, _ in FAILS) >= 3
        assert any(model == path.stem for model, _, _ in HOLDS)
