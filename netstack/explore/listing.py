"""A schedule to be read: who did what, step by step, and where one was stopped for another.

One line is one step: CPU, context, handler, primitive.  ``>`` marks a line before which the schedule
turned from one actor to another that was not forced; without it somebody merely went on.  Accesses of
one kernel in a row are one line.

Context: anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netstack.machine.explore_point import CONTROL, CPU_LIMIT, DRAIN, EVENT, INTR, Step

__all__ = ["listing"]

HEAD = f"    {'step':>5}  {'CPU':<3}  {'context':<7}  {'handler':<22}  primitive"


class Line(NamedTuple):
    """One line of a listing."""

    is_turn: bool
    number: int
    who: tuple[str, str, str]
    what: str


def listing(record: list[Step], lines_max: int = 400) -> str:
    """Return the listing of a recorded schedule; its end, when it is longer than ``lines_max``."""
    lines = list(_merged(_lines(record)))
    left_out = max(0, len(lines) - lines_max)
    text = [HEAD]
    if left_out:
        text.append(f"    ... {left_out} lines before")
    for line in lines[left_out:]:
        cpu, context, handler = line.who
        mark = ">" if line.is_turn else " "
        text.append(f"  {mark} {line.number:>5}  {cpu:<3}  {context:<7}  {handler:<22}  {line.what}".rstrip())
    return "\n".join(text)


def _lines(record: list[Step]) -> Iterator[Line]:
    """Turn decisions into what was done: a CPU stopped before a primitive does it when it goes on."""
    stopped: dict[int, Step] = {}
    resumed: Step | None = None
    resumed_turn = False
    for number, step in enumerate(record, 1):
        if resumed is not None and (resumed.cpu, resumed.what) != (step.cpu, step.what):
            yield Line(resumed_turn, number - 1, _who(resumed), resumed.what)
        was_forced = step.current < 0 or not step.enabled >> step.current & 1
        is_turn = not was_forced and step.actor != step.current
        resumed = None
        if step.actor == step.cpu:
            yield Line(is_turn, number, _who(step), step.what)
            continue
        if step.cpu >= 0 and not DRAIN <= step.actor < EVENT and step.actor != INTR + step.cpu:
            stopped[step.cpu] = step
        if step.actor < CPU_LIMIT:
            resumed, resumed_turn = stopped.pop(step.actor, None), is_turn
            if resumed is None:
                yield Line(is_turn, number, (str(step.actor), "", ""), "goes on")
        elif step.actor < DRAIN:
            yield Line(is_turn, number, (str(step.actor - INTR), "", ""), "takes what is pending")
        elif step.actor < EVENT:
            yield Line(is_turn, number, (str(step.actor - DRAIN), "", ""), "its kept store becomes visible")
        elif step.actor == EVENT:
            yield Line(is_turn, number, ("", "event", ""), "the next event comes")
        elif step.actor == CONTROL:
            yield Line(is_turn, number, ("", "control", ""), "the control program goes on")
    if resumed is not None:
        yield Line(resumed_turn, len(record), _who(resumed), resumed.what)


def _who(step: Step) -> tuple[str, str, str]:
    return (str(step.cpu), step.context, step.handler)


def _merged(lines: Iterator[Line]) -> Iterator[Line]:
    """Join accesses of one kernel in a row."""
    held: Line | None = None
    count = 0
    for line in lines:
        kernel, is_access, _ = line.what.partition(": ")
        if held is not None:
            same = is_access and held.who == line.who and held.what.partition(": ")[0] == kernel
            if same and not line.is_turn:
                count += 1
                continue
            yield _joined(held, count)
            held = None
        if is_access:
            held, count = line, 1
        else:
            yield line
    if held is not None:
        yield _joined(held, count)


def _joined(line: Line, count: int) -> Line:
    if count == 1:
        return line
    return line._replace(what=f"{line.what.partition(': ')[0]}: {count} accesses")
