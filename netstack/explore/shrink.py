"""Make a failing schedule short to read: fewest preemptions, then fewest decisions.

A schedule is a list of decisions; at its end whoever runs goes on running.  So what matters are the
decisions that differ from "whoever runs goes on".  Taking such decisions back, first many at a time,
then one by one, and running again, keeps those without which the failure does not come.

Context: the control program, inside ``swapped``.   Limits: ``RUNS_MAX`` runs.
"""

from __future__ import annotations

from collections.abc import Callable

from netstack._fast.chooser import Chooser
from netstack.explore.schedule import Outcome
from netstack.machine.explore_point import Step

__all__ = ["default_choice", "preemptions", "shrink", "trimmed"]

RUNS_MAX = 400
SEARCH_MAX = 60  # runs per depth of the search for a simpler schedule

# Runs decisions, recording: the decisions that were made, and how it ended.
Runner = Callable[[bytes], tuple[bytes, Outcome]]
Searcher = Callable[[Chooser], Outcome]


def default_choice(step: Step) -> int:
    """Return who goes on when nothing is decided: who runs, else the lowest."""
    if step.current >= 0 and step.enabled >> step.current & 1:
        return step.current
    return (step.enabled & -step.enabled).bit_length() - 1


def decisions(record: list[Step]) -> list[Step]:
    """Return the steps at which there was something to choose."""
    return [step for step in record if step.enabled & (step.enabled - 1)]


def preemptions(record: list[Step]) -> int:
    """Count decisions that took the CPU from who could have gone on."""
    return sum(
        1
        for step in decisions(record)
        if step.current >= 0 and step.enabled >> step.current & 1 and step.actor != step.current
    )


def deviations(record: list[Step]) -> list[int]:
    """Return the numbers of the decisions that differ from the default."""
    return [i for i, step in enumerate(decisions(record)) if step.actor != default_choice(step)]


def trimmed(choices: bytes, record: list[Step]) -> bytes:
    """Drop decisions at the end that say what happens anyway."""
    changes = deviations(record)
    return choices[: changes[-1] + 1] if changes else b""


def cost(one: tuple[bytes, Outcome]) -> tuple[int, int, int]:
    """How hard a schedule is to read: preemptions, decisions that matter, steps."""
    return preemptions(one[1].record), len(deviations(one[1].record)), one[1].steps


def simpler(best: tuple[bytes, Outcome], search: Searcher) -> tuple[bytes, Outcome]:
    """Look for the same kind of failure with fewer preemptions: few change points, fixed priorities."""
    assert best[1].failure is not None
    kind = best[1].failure.kind
    for depth in (1, 2, 3):
        if preemptions(best[1].record) < depth:
            break
        chooser = Chooser("pct", depth, depth=depth)
        for _ in range(SEARCH_MAX):
            chooser.begin()
            outcome = search(chooser)
            one = (chooser.choices, outcome)
            if outcome.failure is not None and outcome.failure.kind == kind and cost(one) < cost(best):
                best = one
    return best


def shrink(
    choices: bytes, outcome: Outcome, run: Runner, search: Searcher
) -> tuple[bytes, Outcome]:
    """Return a schedule with the same kind of failure and as few preemptions as were found.

    Args: outcome -- of ``choices``, recorded.   run -- replays decisions, recording.
          search -- runs the schedule a chooser has begun, recording.
    """
    assert outcome.failure is not None
    kind = outcome.failure.kind
    best = simpler((choices, outcome), search)
    runs = 0

    def take_back(numbers: list[int]) -> bool:
        """Try the best schedule without some of its deviations; True when it is the new best."""
        nonlocal best, runs
        runs += 1
        made, steps = bytearray(best[0]), decisions(best[1].record)
        for number in numbers:
            made[number] = default_choice(steps[number])
        one = run(bytes(made))
        failure = one[1].failure
        if failure is None or failure.kind != kind or cost(one) >= cost(best):
            return False
        best = one
        return True

    part = max(1, len(deviations(best[1].record)) // 2)
    while runs < RUNS_MAX:
        at, has_shrunk = 0, False
        while runs < RUNS_MAX:
            changes = deviations(best[1].record)
            # from the end: what comes late depends on what came before, not the other way
            end = len(changes) - at
            numbers = changes[max(0, end - part) : max(0, end)]
            if not numbers:
                break
            if take_back(numbers):
                has_shrunk = True
            else:
                at += part
        if part > 1:
            part = max(1, part // 2)
        elif not has_shrunk:
            break
    return trimmed(best[0], best[1].record), best[1]
