"""Rows of a run: as JSON lines, as a table for people, as files of a report.

The keys of a line are a contract with programs outside (``KEYS``): they come first, in this order,
further keys follow.  Rates of the wall clock and of the virtual clock never share a table.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields

from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = ["KEYS", "Row", "as_csv", "as_json", "tables"]

KEYS = ("clock", "kernel", "frame", "cores", "frame_bytes", "kfps", "mbps", "loss", "trials")

COUNTS = {
    "wall": "in-memory NICs, generator and drain included",
    "virtual": "modelled NICs and wires in virtual time, cost model of the paper's host",
}


@dataclass(frozen=True)
class Row:
    """Throughput of one kernel, core count and frame size.

    Args: kfps -- thousand frames a second that came out, both directions together.
          loss -- share of the frames sent that did not come out, in the trial reported.
          trials -- trials run to find and confirm the rate; ``n`` of them at the rate reported.
          offered_kfps -- rate asked of the generators in that trial.
          failed_kfps -- lowest rate above it that failed; None when the highest possible passed.
          flat_out_kfps -- wall: forwarded with the generators unpaced, loss allowed; else None.
          paused_percent -- wall: frames not offered because the host ran other work; in kfps they
          are missing.
          wire_percent -- virtual: share of the rate of both wires; None on the wall clock.
          noisy -- empty, or why the point cannot be judged; the rates then say little.
    """

    clock: str
    kernel: str
    frame: str
    cores: int
    frame_bytes: int
    kfps: float
    mbps: float
    loss: float
    trials: int
    n: int
    offered_kfps: float
    failed_kfps: float | None
    flat_out_kfps: float | None
    wire_percent: float | None
    paused_percent: float
    trial_s: float
    resolution: float
    drain: str
    addresses: int
    seed: int
    counts: str
    noisy: str


def as_json(row: Row) -> str:
    """Return the row as one line of JSON."""
    return json.dumps(asdict(row))


def as_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [item.name for item in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def tables(rows: Sequence[Row]) -> Group:
    """Return the paper's Tables 3 and 4 of these rows, and a caption that says what is counted."""
    first = rows[0]
    unit = "kilo frames per second" if first.clock == "virtual" else "million frames per second"
    scale = 1.0 if first.clock == "virtual" else 1e-3
    digits = 1 if first.clock == "virtual" else 2
    rates = _pivot(rows, unit, lambda row: row.kfps * scale, digits)
    bits = _pivot(rows, "Mbit/s (frame bytes with FCS)", lambda row: row.mbps, 0)
    return Group(rates, bits, *_caption(rows))


def _pivot(rows: Sequence[Row], title: str, value: Callable[[Row], float], digits: int) -> Table:
    """Return one table: a line for each frame size, a column for each kernel and core count."""
    columns = list(dict.fromkeys((row.kernel, row.cores) for row in rows))
    cells = {(row.frame_bytes, row.kernel, row.cores): row for row in rows}
    table = Table(title=title, title_justify="left")
    table.add_column("frame bytes", justify="right")
    for kernel, cores in columns:
        table.add_column(f"{kernel}\n{_cores(cores)}", justify="right")
    for size in sorted({row.frame_bytes for row in rows}):
        line = []
        for kernel, cores in columns:
            row = cells.get((size, kernel, cores))
            mark = "?" if row and row.noisy else ""
            line.append(f"{value(row):,.{digits}f}{mark}" if row else "-")
        table.add_row(str(size), *line)
    return table


def _caption(rows: Sequence[Row]) -> Iterable[Text]:
    first = rows[0]
    frames = ", ".join(dict.fromkeys(f"{row.kernel} {row.frame} frame, drain {row.drain}" for row in rows))
    what = {
        "wall": "Wall clock of this host; both directions together.  Counted at the far ends of "
        "the wires: frames through in-memory NICs; the cost of the generators and of draining "
        "the sinks is included.",
        "virtual": "Virtual time: a cost model of the paper's host (8-core Atom C2758, 1 Gb/s "
        "wires), not the speed of this one; both directions together.",
    }[first.clock]
    yield Text(
        f"{what}  Trials of {first.trial_s:g} s, resolution {first.resolution:.2%}, "
        f"{first.addresses} addresses a side, seed {first.seed}.  {frames}."
    )
    for row in rows:
        if row.noisy:
            where = f"{row.kernel}, {_cores(row.cores)}, {row.frame_bytes} bytes"
            yield Text(f"? {where}: {row.noisy}")


def _cores(count: int) -> str:
    return f"{count} core{'s' * (count != 1)}"
