"""Runs one trace through machines and oracle and says where they differ first."""

from collections.abc import Sequence

from equivalence.sides import MachineSide, OracleSide
from equivalence.trace import Trace, make_trace

SHOWN = 12


def run_traces(seeds: Sequence[int], sides: Sequence[MachineSide]) -> int:
    """Compare each side with the oracle, trace by trace; return the number of frames compared.

    A difference is an AssertionError that names the seed, the step and both answers.
    """
    own = {name: ifp.block.mac for name, ifp in sides[0].interfaces.items()}
    oracle = OracleSide(own)
    frames = 0
    for seed in seeds:
        trace = make_trace(seed, own)
        frames += trace.frame_count
        compare(trace, sides, oracle)
    return frames


def compare(trace: Trace, sides: Sequence[MachineSide], oracle: OracleSide) -> None:
    """Run one trace on all sides, in step."""
    for side in (*sides, oracle):
        side.begin(trace.maxaddr, trace.members)
    for number, step in enumerate(trace.steps):
        wanted = {
            "answer": oracle.apply(step),
            "sent": oracle.sent(),
            "heard": oracle.heard(),
            "table": oracle.table(),
            "counters": oracle.counters(),
        }
        for side in sides:
            found = {
                "answer": side.apply(step),
                "sent": side.sent(),
                "heard": side.heard(),
                "table": side.table(),
                "counters": side.counters(),
            }
            if found != wanted:
                raise AssertionError(difference(trace, number, side.name, found, wanted))
    for side in sides:
        side.machine.audit()


def difference(trace: Trace, number: int, name: str, found: dict, wanted: dict) -> str:  # type: ignore[type-arg]
    """Return a report a person can act on: seed, step, and what differs first."""
    step = trace.steps[number]
    said = f"{len(step[2])} frames on {step[1]}" if step[0] == "frames" else repr(step)
    lines = [
        f"seed {trace.seed}: {name} differs from the oracle at step {number}: {said}",
        f"  maxaddr {trace.maxaddr}, members {trace.members}; steps before: "
        + "; ".join(s[0] if s[0] == "frames" else repr(s) for s in trace.steps[:number]),
    ]
    for what in wanted:
        if found[what] != wanted[what]:
            lines += [f"  {what} differs", *first_difference(found[what], wanted[what])]
    return "\n".join(lines)


def first_difference(found: object, wanted: object) -> list[str]:
    """Return lines on the parts of two answers that differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        lines = []
        for key in keys[:SHOWN]:
            lines += [f"    {key}:", *first_difference(found.get(key), wanted.get(key))]
        return lines
    if isinstance(found, list) and isinstance(wanted, list):
        same = 0
        while same < min(len(found), len(wanted)) and found[same] == wanted[same]:
            same += 1
        return [
            f"      lengths {len(found)} and {len(wanted)}, equal up to {same}",
            f"      is        {shown(found[same:])}",
            f"      should be {shown(wanted[same:])}",
        ]
    return [f"      is {found!r}, should be {wanted!r}"]


def shown(items: list[object]) -> str:
    """Return the first items, frames by their header and serial number."""
    return str([item[:18].hex() if isinstance(item, bytes) else item for item in items[:3]])
