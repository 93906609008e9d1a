"""The compiled tier in the form of the Python tier: names, reports, tokens.

The scenarios themselves, their mutants and the fibers are in ``_fast/explore``.

Context: control program; a call does not come back before its schedules are run, so budgets in time
are cut into slices.
"""

from __future__ import annotations

from errno import EINVAL, ENOENT
from importlib import import_module
from typing import Any

from netstack.errors import NetstackError
from netstack.explore import token as tokens
from netstack.explore.report import Report
from netstack.machine.explore_point import elapsed_s

__all__ = ["compiled_scenarios", "explore_compiled", "is_compiled", "replay_compiled"]

SLICE = 50_000  # schedules between two looks at the clock


def _module() -> Any:
    try:
        return import_module("netstack._fast.explore")
    except ImportError:
        return None


def compiled_scenarios() -> dict[str, Any]:
    """Return name -> record with ``description``, ``ncpu`` and ``mutants``; empty where not built."""
    module = _module()
    return dict(module.SCENARIOS) if module is not None else {}


def is_compiled(name: str) -> bool:
    """Say whether a scenario is of the compiled tier."""
    return name in compiled_scenarios()


def explore_compiled(
    name: str,
    schedules: int = 100_000,
    strategy: str = "random",
    seed: int = 0,
    *,
    seconds: float | None = None,
    depth: int = 3,
    preemptions_max: int = 2,
    delayed_stores: bool = False,
    mutant: str = "",
    progress: Any = None,
) -> Report:
    """Run a compiled scenario; arguments and report as ``search.explore``.

    Each slice of a budget in time has its own seed, counted up from ``seed``; a dfs is one slice.
    Raises: NetstackError: ENOENT (no such scenario or mutant), EINVAL (strategy, numbers).
    """
    module = _module()
    _check(name, mutant)
    report = Report(name, "compiled", strategy, seed, delayed_stores=delayed_stores, mutant=mutant)
    digests: set[int] = set()
    start_s = elapsed_s()
    slice_schedules = schedules if seconds is None or strategy == "dfs" else min(schedules, SLICE)
    number = 0
    while report.schedules < schedules:
        try:
            result = module.run(
                name,
                min(slice_schedules, schedules - report.schedules),
                strategy,
                seed + number,
                mutant=mutant,
                delayed_stores=delayed_stores,
                depth=depth,
                preemptions=preemptions_max,
            )
        except ValueError as problem:
            raise NetstackError(EINVAL, f"{name}: {problem}") from None
        number += 1
        report.schedules += result.schedules
        report.steps += result.steps
        report.is_exhausted = result.is_exhausted
        report.seconds = elapsed_s() - start_s
        digests.add(result.digest)
        if result.violations:
            report.found_after = report.schedules
            _describe(report, result.choices)
            break
        if progress is not None:
            progress(report)
        if result.is_exhausted or (seconds is not None and report.seconds >= seconds):
            break
    report.seconds = elapsed_s() - start_s
    return report


def replay_compiled(told: tokens.Token) -> Report:
    """Run the schedule of a token."""
    _check(told.scenario, told.mutant)
    report = Report(
        told.scenario, "compiled", "replay", 0, delayed_stores=told.is_delaying, mutant=told.mutant
    )
    start_s = elapsed_s()
    _describe(report, told.choices)
    report.seconds = elapsed_s() - start_s
    report.schedules = 1
    return report


def _check(name: str, mutant: str) -> None:
    known = compiled_scenarios()
    if name not in known:
        raise NetstackError(ENOENT, f"{name}: no such compiled scenario")
    if mutant and mutant not in known[name].mutants:
        names = ", ".join(known[name].mutants) or "none"
        raise NetstackError(ENOENT, f"mutant {mutant} of {name}: there are {names}")


def _describe(report: Report, choices: bytes) -> None:
    """Run one schedule again and enter what it shows."""
    module = _module()
    how = {"mutant": report.mutant, "delayed_stores": report.delayed_stores}
    try:
        result = module.replay(report.scenario, choices, **how)
    except ValueError as problem:
        raise NetstackError(EINVAL, f"{report.scenario}: {problem}") from None
    report.steps = report.steps or result.steps
    report.failure = result.message if result.violations else ""
    report.digest = f"{result.digest:016x}"
    report.token = tokens.encode(
        tokens.Token(report.scenario, choices, report.mutant, report.delayed_stores)
    )
    lines = [f"    {'step':>5}  {'CPU':<3}  access"]
    last = -1
    for number, (cpu, what, where) in enumerate(module.trace(report.scenario, choices, **how), 1):
        mark = ">" if last not in (-1, cpu) else " "
        lines.append(f"  {mark} {number:>5}  {cpu:<3}  {what}{f' at +{where} of the world' if where >= 0 else ''}")
        last = cpu
    report.listing = "\n".join(lines)
