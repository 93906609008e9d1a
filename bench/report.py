"""What must be reached beside what this host reaches: ``python -m bench.report``.

Rates count frames out of the sinks and include generators and in-memory NICs.  Ratios are medians
of ratios taken inside one round of interleaved trials; rounds in which the probe makes less
than 1.8 times one CPU of two are left out.  A host that does not give two CPUs the work
of two (the probe says so) cannot judge scaling: exit code 4.  1: a must is missed; 0: none is.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.chainrates import STATIONS, chain_rates, kernel_rates
from bench.interleave import host_cpus, medians, ratio
from netstack.rfc2544.results import host

EXIT_MISSED, EXIT_NOISY = 1, 4

# The probe's ratio below which the host does not give two whole CPUs.
PROBE_MIN = 1.8

# Fewer quiet rounds than this, and all rounds are shown, and nothing is judged.
QUIET_ROUNDS_MIN = 3


@dataclass(frozen=True)
class Line:
    """One line of the table; ``must`` None: shown for comparison, not judged."""

    what: str
    must: float | None
    measured: float
    unit: str
    n: int

    @property
    def is_met(self) -> bool:
        return self.must is None or self.measured >= self.must


def measure(rounds_count: int, trial_s: float) -> list[Line]:
    """Run the interleaved rounds; one line for each thing that must or may be known."""
    chain = quiet_rounds(chain_rates(rounds_count, trial_s))
    count = len(chain["roofline"])
    middle = medians(chain)
    lines = [
        Line("compiled loop, 1 core", 20.0, middle["NET_MPSAFE 1"] / 1e6, "M/s", count),
        Line(
            "compiled loop, 1 core, of touching frames only",
            None,
            ratio(chain, "NET_MPSAFE 1", "roofline"),
            "x",
            count,
        ),
    ]
    if len(host_cpus()) < 2:
        return lines
    lines += [
        Line("compiled loop, 2 cores", None, middle["NET_MPSAFE 2"] / 1e6, "M/s", count),
        Line("2 cores over 1", 1.7, ratio(chain, "NET_MPSAFE 2", "NET_MPSAFE 1"), "x", count),
        Line("probe: 2 threads over 1", None, ratio(chain, "alu 2", "alu 1"), "x", count),
    ]
    kernels = kernel_rates(rounds_count, trial_s, "one")
    for kernel in ("GENERIC", "NET_MPSAFE"):
        name = f"{kernel}, one frame an interrupt, 2 cores over 1"
        lines.append(Line(name, None, ratio(kernels, f"{kernel} 2", f"{kernel} 1"), "x", rounds_count))
    name = "NET_MPSAFE over GENERIC, one frame an interrupt, 2 cores"
    lines.append(Line(name, None, ratio(kernels, "NET_MPSAFE 2", "GENERIC 2"), "x", rounds_count))
    return lines


def quiet_rounds(values: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the rounds in which the host gave two CPUs; all of them when it hardly ever did."""
    if "alu 2" not in values:
        return values
    good = [i for i, two in enumerate(values["alu 2"]) if two / values["alu 1"][i] >= PROBE_MIN]
    if len(good) < QUIET_ROUNDS_MIN:
        return values
    return {name: [series[i] for i in good] for name, series in values.items()}


def show(lines: Sequence[Line]) -> None:
    """Print the table and what it was measured on."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"64-byte frames, {STATIONS:,} stations, learning on, no payload read")
    for name in ("what", "must", "measured", "unit", "n", ""):
        table.add_column(name, justify="left" if name == "what" else "right")
    for line in lines:
        must = "" if line.must is None else f">= {line.must:g}"
        mark = "" if line.must is None else ("met" if line.is_met else "MISSED")
        table.add_row(line.what, must, f"{line.measured:.2f}", line.unit, str(line.n), mark)
    console = Console()
    console.print(table)
    about = host()
    console.print(
        f"wall clock; {about['processor']}, {len(host_cpus())} CPUs, {about['system']}, "
        f"Python {platform.python_version()}, kernels {about['kernels']}; frames counted at the "
        "sinks, generators and in-memory NICs included",
        soft_wrap=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--trial", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    lines = measure(options.rounds, options.trial)
    if options.json:
        for line in lines:
            print(json.dumps({**asdict(line), "is_met": line.is_met}))
    else:
        show(lines)
    probe = [line.measured for line in lines if line.what.startswith("probe")]
    if probe and probe[0] < PROBE_MIN:
        print(
            f"bench.report: too noisy to judge: two threads of pure arithmetic make only "
            f"{probe[0]:.2f} times one (less than {PROBE_MIN})",
            file=sys.stderr,
        )
        return EXIT_NOISY
    return 0 if all(line.is_met for line in lines) else EXIT_MISSED


if __name__ == "__main__":
    sys.exit(main())
