"""The compiled tier of the explorer: every scenario clean, every planted error found and replayed.

The long run is ``netstack explore --all``; here each scenario gets a few thousand schedules a mode.
Seeds are fixed, so a failure comes again; its message has what ``explore.replay`` needs.
"""

import threading
from typing import Any

import pytest

from netstack._fast import explore

SEED = 20150314
SCHEDULES = 5000
# Scenarios small enough to be gone through at a bound of two preemptions.
SMALL = (
    "spin-lock",
    "pserialize-switch",
    "pserialize-idle",
    "pserialize-nested",
    "idle-wake",
    "cpu-pause",
    "softint-pending",
    "softint-post",
    "tx-handover",
    "mbuf-depot",
    "rx-ring",
)


def told(result: explore.Result) -> str:
    return f"schedule {result.schedules}: {result.message}; choices {result.choices!r}"


@pytest.mark.parametrize("delayed_stores", [False, True], ids=["in-order", "delayed"])
@pytest.mark.parametrize("strategy", ["random", "pct"])
@pytest.mark.parametrize("name", explore.SCENARIOS)
def test_a_scenario_holds(name: str, strategy: str, delayed_stores: bool) -> None:
    result = explore.run(name, SCHEDULES, strategy, SEED, delayed_stores=delayed_stores)
    assert not result.violations, told(result)
    assert result.schedules == SCHEDULES
    assert result.steps > SCHEDULES  # something ran


@pytest.mark.parametrize("name", SMALL)
def test_every_schedule_of_a_small_scenario(name: str) -> None:
    result = explore.run(name, 1_000_000, "dfs", preemptions=2)
    print(f"{name}: {result.schedules} schedules with at most two preemptions")
    assert not result.violations, told(result)
    assert result.is_exhausted
    deeper = explore.run(name, 20_000, "dfs", preemptions=3)
    assert deeper.schedules > result.schedules


@pytest.mark.parametrize("name", explore.MUTANTS)
def test_a_mutant_is_found_and_replayed(name: str) -> None:
    mutant = explore.MUTANTS[name]
    for seed in (SEED, SEED + 1, SEED + 2):
        found = explore.run(
            mutant.scenario,
            mutant.budget,
            mutant.strategy,
            seed,
            mutant=name,
            delayed_stores=mutant.delayed_stores,
        )
        assert found.violations == 1, f"{name}: not in {found.schedules} schedules, seed {seed}"
        assert found.message and found.choices
    for _ in range(100):
        again = explore.replay(mutant.scenario, found.choices, name, mutant.delayed_stores)
        assert (again.digest, again.message) == (found.digest, found.message)
        assert again.choices == found.choices


@pytest.mark.parametrize("name", [n for n, m in explore.MUTANTS.items() if m.delayed_stores])
def test_a_missing_fence_needs_delayed_stores(name: str) -> None:
    mutant = explore.MUTANTS[name]
    in_order = explore.run(mutant.scenario, 3000, mutant.strategy, SEED, mutant=name)
    assert in_order.violations == 0, "found without delay: the table should say so"


def test_every_scenario_has_a_mutant() -> None:
    assert not [name for name, scenario in explore.SCENARIOS.items() if not scenario.mutants]
    assert {m.scenario for m in explore.MUTANTS.values()} <= set(explore.SCENARIOS)
    assert len(explore.SCENARIOS) >= 10
    assert len(explore.MUTANTS) >= 12


@pytest.mark.parametrize("strategy", ["random", "pct", "dfs"])
def test_one_seed_one_run(strategy: str) -> None:
    runs = [explore.run("bridge-delete", 500, strategy, seed, delayed_stores=True) for seed in (SEED, SEED, SEED + 1)]
    assert runs[0] == runs[1]
    assert (runs[0].digest == runs[2].digest) == (strategy == "dfs")


def test_threads_explore_side_by_side() -> None:
    """Each with an error of its own: none sees another's."""
    names = ("spin-not-atomic", "depot-lock-gap", "", "mac-no-recheck")
    results: dict[str, explore.Result] = {}

    def work(name: str) -> None:
        scenario = explore.MUTANTS[name].scenario if name else "tx-full"
        results[name] = explore.run(scenario, 5000, "random", SEED, name, stop_at_first=False)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert (results[name].violations > 0) == bool(name)
        scenario = explore.MUTANTS[name].scenario if name else "tx-full"
        alone = explore.run(scenario, 5000, "random", SEED, name, stop_at_first=False)
        assert results[name] == alone


def test_going_on_after_a_violation() -> None:
    first = explore.run("spin-lock", 2000, "random", SEED, "spin-not-atomic")
    every = explore.run("spin-lock", 2000, "random", SEED, "spin-not-atomic", stop_at_first=False)
    assert first.violations == 1
    assert every.violations > 10
    assert every.schedules == 2000
    assert (every.choices, every.digest, every.message) == (
        first.choices,
        first.digest,
        first.message,
    )


def test_a_trace_tells_what_happened() -> None:
    found = explore.run("spin-lock", 1000, "random", SEED, "spin-not-atomic")
    steps = explore.trace("spin-lock", found.choices, "spin-not-atomic")
    assert {cpu for cpu, _operation, _offset in steps} == {0, 1}
    assert steps[0][1:] == ("load", 0)  # the lock word is the first of the world
    assert explore.trace("spin-lock", found.choices, "spin-not-atomic") == steps


def test_a_deadlock_is_named() -> None:
    mutant = explore.MUTANTS["idle-no-last-look"]
    found = explore.run(mutant.scenario, 1000, mutant.strategy, SEED, mutant.name, mutant.delayed_stores)
    assert "deadlock" in found.message


def test_choices_of_another_scenario_are_refused() -> None:
    found = explore.run("spin-lock", 1000, "random", SEED, "spin-not-atomic")
    with pytest.raises(ValueError, match="these choices are not of scenario"):
        explore.replay("spin-lock", bytes([7]) + found.choices, "spin-not-atomic")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "nothing"}, "no scenario 'nothing': one of spin-lock"),
        ({"mutant": "nothing"}, "no mutant 'nothing'"),
        ({"strategy": "guess"}, "no strategy 'guess'"),
        ({"delayed_stores": 9}, "holds 0..8 stores back, not 9"),
        ({"schedules": -1}, "not negative: -1"),
        ({"depth": 0}, "depth must be 1..16"),
        ({"preemptions": -1}, "preemptions must be"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    call: dict[str, Any] = {"name": "spin-lock", "schedules": 1} | arguments
    with pytest.raises(ValueError, match=words):
        explore.run(**call)
