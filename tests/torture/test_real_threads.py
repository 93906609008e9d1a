"""Each torturer finds the code sound under enough pressure, and finds every error planted in it.

A run goes on in short slices until it has seen what it needs, however busy the host is; no time and
no speed is asserted. `netstack torture` is the long form.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from signal import SIGABRT
from time import monotonic
from typing import Any

import pytest

from netstack._fast import chain
from netstack.cmd.torture import PARTS, Part, mutants_of, usable

SLICE_S = 0.1
PATIENCE_S = 60.0
NEAR_MISSES = 50
THREADS = max(3, len(os.sched_getaffinity(0)) + 1)

# Mutants that are none under some circumstances.
HARMLESS = {("grace switch", "late_announce"), ("if_snd", "claim_in_two_steps"), ("if_snd", "head_first")}
# The checked build has assertions that stop the process at the first of these.
ABORTS = {
    ("spin lock", "try_in_two_steps"),
    ("TX handover", "try_in_two_steps"),
    ("mbuf pool", "spill_unlocked"),
}


def make(part: Part, threads: int, seed: int, mutant: str = "") -> Any:
    cls = getattr(import_module(f"netstack._fast.{part.module}"), part.cls)
    return cls(part.threads or threads, seed, *part.options, mutant=mutant)


def run_until(run: Any, is_enough: Callable[[], bool]) -> bool:
    """Run slices until it is enough; False when patience ends first."""
    end = monotonic() + PATIENCE_S
    while monotonic() < end:
        run.run(SLICE_S)
        if is_enough():
            return True
    return False


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_nothing_is_violated_under_pressure(part: Part, seed: int, record_property: Any) -> None:
    if not usable(part):
        pytest.skip("no membarrier(2) here")
    run = make(part, THREADS, seed)
    had_enough = run_until(run, lambda: run.seconds >= 0.4 and run.counts["near_misses"] >= NEAR_MISSES)
    record_property("counts", run.counts)
    assert not any(run.violations.values()), (run.violations, run.counts)
    assert had_enough, f"too few near misses to judge: {run.counts}"


def planted() -> list[Any]:
    cases = [(part, mutant) for part in PARTS for mutant in mutants_of(part) if part.threads == 0]
    return [pytest.param(*case, id=f"{case[0].name}-{case[1]}") for case in cases
            if (case[0].name, case[1]) not in HARMLESS]


@pytest.mark.parametrize(("part", "mutant"), planted())
def test_the_error_is_found(part: Part, mutant: str, seed: int) -> None:
    if not usable(part):
        pytest.skip("no membarrier(2) here")
    if chain.CHECKED and (part.name, mutant) in ABORTS:
        command = [sys.executable, "-P", "-m", "netstack", "torture", part.kind, "--mutant", mutant, "--for", "60"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode in (1, -SIGABRT), done
        return
    run = make(part, 4, seed, mutant)
    assert run_until(run, lambda: any(run.violations.values())), run.counts


def test_torture_refuses_nonsense() -> None:
    part = PARTS[0]
    with pytest.raises(ValueError, match="threads"):
        make(part, 1, 0)
    with pytest.raises(ValueError, match="no mutant 'nobody'"):
        make(part, 4, 0, "nobody")
    with pytest.raises(ValueError, match="no ring"):
        import_module("netstack._fast.torture_rings").RingTorture(4, 0, "stack")
    with pytest.raises(TypeError, match="subclass"):
        import_module("netstack._fast.torture").Torture(2).run(0.1)
