"""``netstack rfc2544``: throughput of the bridge, frame size by frame size (RFC 2544 section 26.1).

Rows on stdout, as tables or as one JSON object a line; progress on stderr when it is a terminal.
Exit codes: 0 done, 1 the machine refused or a frame was not accounted for, 2 usage, 3 something
is missing on this host, 4 most points were too noisy to judge.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from netstack.cmd.main import EXIT_NOISY
from netstack.rfc2544 import plots, report, results
from netstack.rfc2544.report import Row
from netstack.rfc2544.rig import CORES_MAX, KERNELS, Setup
from netstack.rfc2544.search import Limits, Trial
from netstack.rfc2544.sweep import Plan, points, run
from netstack.rfc2544.traffic import PAPER_SIZES, SIZES

__all__ = ["command"]

BURST_MAX = 256
VIRTUAL_CORES = (1, 2, 4, 8)
TRIAL_S = {"wall": 1.0, "virtual": 0.02}

QUICK_SIZES = (64, 512, 1518)
QUICK_CORES = {"wall": 2, "virtual": 2}
QUICK_TRIAL_S = {"wall": 0.1, "virtual": 0.005}

# On the wall clock a rate may fail by the host's doing, so it gets three tries, and the rate found
# must hold again.  In virtual time a repetition would repeat exactly.
TRIES = {"wall": 3, "virtual": 1}
CONFIRMATIONS = {"wall": 2, "virtual": 0}
TRIALS_MAX, QUICK_TRIALS_MAX = 60, 32


Callback = Callable[[click.Context, click.Parameter, Any], Any]


def int_list(low: int, high: int) -> Callback:
    """Return the reader of an option that takes numbers with commas between them, ascending."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            numbers = sorted({int(part) for part in value.split(",")})
        except ValueError:
            raise click.BadParameter(f"{value!r}: write numbers with commas between them", ctx, param) from None
        for number in numbers:
            if not low <= number <= high:
                raise click.BadParameter(f"{number} is not within {low} to {high}", ctx, param)
        return tuple(numbers)

    return read


def drain_limit(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """Read ``one``, ``ring``, or a number of frames."""
    if value in (None, "one", "ring"):
        return value
    if not value.isdigit() or not 1 <= int(value) <= BURST_MAX:
        raise click.BadParameter(f"{value!r}: write one, ring, or 1 to {BURST_MAX} frames", ctx, param)
    return int(value)


@click.command("rfc2544")
@click.option(
    "--clock",
    type=click.Choice(["wall", "virtual"]),
    default="wall",
    show_default=True,
    help="wall: this host.  virtual: the paper's host, as a cost model.",
)
@click.option(
    "--kernel",
    "kernels",
    type=click.Choice(KERNELS),
    multiple=True,
    help="Repeat for several.  [default: both]",
)
@click.option(
    "--cores",
    callback=int_list(1, CORES_MAX),
    metavar="N,N",
    help="[default: 1 to all of this host; virtual: 1,2,4,8]",
)
@click.option(
    "--sizes",
    callback=int_list(64, 1518),
    metavar="N,N",
    help=f"Frame bytes with FCS.  [default: {','.join(map(str, SIZES))}]",
)
@click.option("--paper-sizes", is_flag=True, help="The sizes of the paper's Table 3.")
@click.option(
    "--frame",
    type=click.Choice(["softint", "classic"]),
    help="Driver frame.  [default: softint; virtual GENERIC: classic]",
)
@click.option(
    "--drain",
    callback=drain_limit,
    metavar="one|ring|N",
    help="Frames one interrupt takes.  [default: ring; virtual NET_MPSAFE: one]",
)
@click.option(
    "--trial",
    "trial_s",
    type=click.FloatRange(1e-4, 3600),
    metavar="SECONDS",
    help="[default: 1; virtual: 0.02 virtual seconds]",
)
@click.option(
    "--resolution",
    type=click.FloatRange(1e-4, 0.5),
    default=0.01,
    show_default=True,
    help="Width of the final bracket as a share of the rate.",
)
@click.option(
    "--loss",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Accepted share of lost frames; RFC 2544 says 0.",
)
@click.option(
    "--addresses",
    type=click.IntRange(1, 65536),
    default=256,
    show_default=True,
    help="Stations on each side.",
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--quick",
    is_flag=True,
    help="Under a minute: up to 2 cores, sizes 64, 512 and 1518, short trials.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--report",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write results.json, results.csv and the plots.",
)
def command(quick: bool, as_json: bool, folder: Path | None, **options: Any) -> int:
    """Measure the bridge's throughput: the highest rate it forwards without loss.

    Both directions at once, each frame size on its own.  On the wall clock the rates include the
    cost of the in-memory NICs, generators and sinks.
    """
    plan = make_plan(quick, options)
    if folder:
        plots.require()
        results.prepare(folder)
    rows = []
    with progress(len(points(plan))) as (at_trial, at_row):
        for row in run(plan, at_trial=at_trial):
            rows.append(row)
            at_row(row)
            if as_json:
                print(report.as_json(row), flush=True)
    if not as_json:
        show(rows)
    if folder:
        results.write(rows, folder, sys.argv[1:])
        print(f"netstack rfc2544: report in {folder}", file=sys.stderr)
    return complain_of_noise(rows)


def make_plan(quick: bool, options: dict[str, Any]) -> Plan:
    """Fill in what the options leave open; raises click.UsageError for what cannot be measured."""
    clock = options["clock"]
    if options["sizes"] and options["paper_sizes"]:
        raise click.UsageError("--sizes and --paper-sizes exclude each other")
    host_cores = len(os.sched_getaffinity(0))
    cores = options["cores"] or all_cores(clock, host_cores, quick)
    if clock == "wall" and cores[-1] > host_cores:
        raise click.UsageError(
            f"--cores {cores[-1]}: this process may use {host_cores} CPUs; --clock virtual measures any number"
        )
    sizes = options["sizes"] or (PAPER_SIZES if options["paper_sizes"] else None)
    trial_s = options["trial_s"] or (QUICK_TRIAL_S if quick else TRIAL_S)[clock]
    limits = Limits(
        resolution=options["resolution"],
        loss=options["loss"],
        growth=options["resolution"] / 2,
        tries=TRIES[clock],
        confirmations=CONFIRMATIONS[clock],
        trials_max=QUICK_TRIALS_MAX if quick else TRIALS_MAX,
    )
    plan = Plan(
        clock=clock,
        kernels=tuple(dict.fromkeys(options["kernels"])) or KERNELS,
        cores=cores,
        sizes=sizes or (QUICK_SIZES if quick else SIZES),
        frame=options["frame"],
        drain=options["drain"],
        trial_s=trial_s,
        limits=limits,
        seed=options["seed"],
        addresses=options["addresses"],
    )
    if not points(plan):
        raise click.UsageError(
            "GENERIC has one interrupt per port: on the wall clock it uses 1 or 2 cores, "
            "on the virtual clock 1 (as in the paper)"
        )
    return plan


def all_cores(clock: str, host_cores: int, quick: bool) -> tuple[int, ...]:
    """Return the core counts of a run that names none."""
    cores = VIRTUAL_CORES if clock == "virtual" else tuple(range(1, min(host_cores, CORES_MAX) + 1))
    return tuple(n for n in cores if n <= QUICK_CORES[clock]) if quick else cores


AtTrial = Callable[[Setup, int, Trial], None]
AtRow = Callable[[Row], None]


@contextmanager
def progress(total: int) -> Iterator[tuple[AtTrial | None, AtRow]]:
    """Show a bar on stderr when it is a terminal; yields what to call after each trial and row."""
    if not sys.stderr.isatty():
        yield None, lambda row: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rfc2544", total=total)

        def at_trial(setup: Setup, frame_bytes: int, trial: Trial) -> None:
            text = f"{setup.kernel} {setup.cores} core(s) {frame_bytes} B"
            bar.update(task, description=f"{text}: {trial.rate_fps / 1e3:,.0f} kfps offered")

        yield at_trial, lambda row: bar.advance(task)


def show(rows: Sequence[Row]) -> None:
    """Print the tables on stdout."""
    from rich.console import Console

    Console().print(report.tables(rows))


def complain_of_noise(rows: Sequence[Row]) -> int:
    """Name on stderr every point that cannot be judged; the exit code: 4 when most of them cannot."""
    noisy = [row for row in rows if row.noisy]
    for row in noisy:
        print(
            f"netstack rfc2544: {row.kernel}, {row.cores} core(s), {row.frame_bytes} bytes: "
            f"too noisy to judge: {row.noisy}",
            file=sys.stderr,
        )
    return EXIT_NOISY if 2 * len(noisy) > len(rows) else 0
