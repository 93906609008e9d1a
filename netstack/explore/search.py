"""Explore a scenario of the Python tier: schedule after schedule until one fails or the budget ends.

Context: the control program of a process in which no other machine works.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from errno import EINVAL
from typing import Literal, NamedTuple

from netstack._fast.chooser import STRATEGIES, Chooser
from netstack.errors import NetstackError
from netstack.explore import token as tokens
from netstack.explore.library import find, name_of
from netstack.explore.listing import listing
from netstack.explore.mutants import planted
from netstack.explore.report import Report
from netstack.explore.schedule import Outcome, Scenario, run_schedule, undisturbed
from netstack.explore.shrink import preemptions, shrink, trimmed
from netstack.explore.swap import swapped
from netstack.machine.explore_point import elapsed_s

__all__ = ["Progress", "explore", "replay"]

Strategy = Literal["random", "pct", "dfs"]
Grain = Literal["both", "coarse", "fine"]
Progress = Callable[[Report], object]

COLLECT_EVERY = 32  # schedules: their garbage is cyclic
PROGRESS_EVERY = 64
STEPS_MAX = 50_000
GRAINS = {"both": (True, False), "coarse": (True,), "fine": (False,)}  # is_coarse, in turn


def explore(
    scenario: Scenario | str,
    schedules: int = 1000,
    strategy: Strategy = "random",
    seed: int = 0,
    *,
    seconds: float | None = None,
    depth: int = 3,
    preemptions_max: int = 2,
    grain: Grain = "both",
    delayed_stores: bool = False,
    mutant: str = "",
    is_shrinking: bool = True,
    step_limit: int = STEPS_MAX,
    progress: Progress | None = None,
) -> Report:
    """Run a scenario under many schedules; stop at the first that fails.

    Args:    scenario -- a function without arguments, a library name, or ``path/file.py:function``.
             schedules, seconds -- the budget; whichever ends first.
             strategy -- "random"; "pct", which meets a bug of depth ``depth`` with a stated
             probability; "dfs", all schedules with up to ``preemptions_max`` preemptions.
             grain -- "coarse": a compiled kernel is one step; "fine": each of its atomic accesses
             is; "both": schedules of the two in turn (dfs: one after the other).
             delayed_stores -- fine grain: stores inside kernels may become visible late.
             mutant -- plant a known bug (``mutants.py``).   progress -- called now and then.
    Returns: the report; ``report.check()`` raises when something was found.
    Raises:  NetstackError: EINVAL (strategy, numbers), ENOENT (no such scenario or mutant).
    Source:  Burckhardt et al., ASPLOS 2010 (pct); Musuvathi and Qadeer, PLDI 2007 (bounded dfs).
    """
    function = find(scenario) if isinstance(scenario, str) else scenario
    name = scenario if isinstance(scenario, str) else name_of(scenario)
    if strategy not in STRATEGIES or grain not in GRAINS:
        text = f"strategy {strategy!r}, grain {grain!r}: {', '.join(STRATEGIES)}; {', '.join(GRAINS)}"
        raise NetstackError(EINVAL, f"{name}: {text}")
    try:
        choosers = [
            Chooser(strategy, seed, depth=depth, preemptions=preemptions_max) for _ in GRAINS[grain]
        ]
    except ValueError as problem:
        raise NetstackError(EINVAL, f"{name}: {problem}") from None
    report = Report(name, "python", strategy, seed, delayed_stores=delayed_stores, mutant=mutant)
    states: set[str] = set()
    start_s = elapsed_s()
    turns = list(zip(GRAINS[grain], choosers, strict=True))
    with swapped(), planted(mutant), undisturbed():
        while report.schedules < schedules and turns:
            is_coarse, chooser = turns[0 if strategy == "dfs" else report.schedules % len(turns)]
            if not chooser.begin():
                turns.remove((is_coarse, chooser))
                continue
            options = _Options(function, is_coarse, delayed_stores and not is_coarse, step_limit)
            outcome = options.run(chooser, False)
            report.schedules += 1
            report.steps += outcome.steps
            report.diverged += chooser.has_diverged
            states.add(outcome.state)
            if outcome.failure is not None:
                _describe(report, chooser.choices, outcome, options, is_shrinking)
                break
            if report.schedules % COLLECT_EVERY == 0:
                gc.collect()
            report.seconds = elapsed_s() - start_s
            if progress is not None and report.schedules % PROGRESS_EVERY == 0:
                report.states = len(states)
                progress(report)
            if seconds is not None and report.seconds >= seconds:
                break
    report.is_exhausted = not turns
    report.states = len(states)
    report.seconds = elapsed_s() - start_s
    return report


class _Options(NamedTuple):
    """How a schedule is run."""

    function: Scenario
    is_coarse: bool
    is_delaying: bool
    step_limit: int

    def run(self, chooser: Chooser, is_recording: bool = True) -> Outcome:
        """Run the schedule that the chooser has begun."""
        return run_schedule(
            self.function,
            chooser,
            is_coarse=self.is_coarse,
            is_delaying=self.is_delaying,
            is_recording=is_recording,
            step_limit=self.step_limit,
        )

    def again(self, choices: bytes) -> tuple[bytes, Outcome]:
        """Run decisions, recording; return what was decided in the end."""
        chooser = Chooser.replay(choices)
        chooser.begin()
        outcome = self.run(chooser)
        return chooser.choices, outcome

    def token(self, report: Report, choices: bytes) -> str:
        """Return the token of a schedule of this kind."""
        return tokens.encode(
            tokens.Token(report.scenario, choices, report.mutant, self.is_delaying, self.is_coarse)
        )


def _describe(
    report: Report, choices: bytes, outcome: Outcome, options: _Options, is_shrinking: bool
) -> None:
    """Enter a failing schedule into the report: run it again, shrink it, list it."""
    report.found_after = report.schedules
    made, again = options.again(choices)
    if again.failure is None:
        report.failure = f"{outcome.failure} -- and not again: the scenario is not deterministic"
        report.diverged += 1
        report.token = options.token(report, choices)
        return
    if is_shrinking:
        made, again = shrink(made, again, options.again, options.run)
    else:
        made = trimmed(made, again.record)
    again = options.again(made)[1]
    report.failure = str(again.failure)
    report.preemptions = preemptions(again.record)
    report.digest = again.digest
    report.listing = listing(again.record)
    report.token = options.token(report, made)


def replay(token: str, scenario: Scenario | None = None) -> Report:
    """Run the one schedule that a token stands for.

    Args:    scenario -- the function, where the token's name does not lead to it.
    Returns: a report of one schedule; the same token gives the same ``digest``.
    Raises:  NetstackError: EINVAL (no token), ENOENT (no such scenario or mutant).
    """
    told = tokens.decode(token)
    if scenario is None:
        from netstack.explore.compiled import is_compiled, replay_compiled

        if is_compiled(told.scenario):
            return replay_compiled(told)
    function = scenario if scenario is not None else find(told.scenario)
    report = Report(
        told.scenario, "python", "replay", 0, delayed_stores=told.is_delaying, mutant=told.mutant
    )
    chooser = Chooser.replay(told.choices)
    chooser.begin()
    start_s = elapsed_s()
    options = _Options(function, told.is_coarse, told.is_delaying, STEPS_MAX)
    with swapped(), planted(told.mutant), undisturbed():
        outcome = options.run(chooser)
    report.schedules = report.states = 1
    report.steps = outcome.steps
    report.seconds = elapsed_s() - start_s
    report.diverged = int(chooser.has_diverged)
    report.digest = outcome.digest
    report.listing = listing(outcome.record)
    report.preemptions = preemptions(outcome.record)
    report.token = token.strip()
    if outcome.failure is not None:
        report.failure = str(outcome.failure)
        report.found_after = 1
    return report
