"""``netstack explore``: run scenarios under many schedules; print what broke, and how to see it again.

A table on stdout (or one JSON object a scenario), progress on stderr when it is a terminal.
Exit codes: 0 no schedule failed, 1 one did, 2 usage.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import click

from netstack.cmd.main import EXIT_CHECK_FAILED, EXIT_NOISY
from netstack.explore.compiled import compiled_scenarios, explore_compiled, is_compiled
from netstack.explore.library import scenarios
from netstack.explore.mutants import MUTANTS
from netstack.explore.report import Report
from netstack.explore.search import explore, replay

__all__ = ["command"]

SCHEDULES = {"python": 1000, "compiled": 1_000_000}
WITHOUT_LIMIT = 1 << 40
STRATEGIES = ("random", "pct", "dfs")


@click.command("explore")
@click.argument("names", nargs=-1, metavar="[NAME|FILE.py:FUNCTION]...")
@click.option("--list", "is_list", is_flag=True, help="Name the scenarios and their mutants.")
@click.option("--all", "is_all", is_flag=True, help="Every scenario of both tiers.")
@click.option("--schedules", type=click.IntRange(1), help="[default: 1000; compiled tier: 1000000]")
@click.option("--seconds", type=click.FloatRange(0.01), help="For each scenario; ends a run early.")
@click.option("--strategy", type=click.Choice(STRATEGIES), default="random", show_default=True)
@click.option(
    "--grain",
    type=click.Choice(["both", "coarse", "fine"]),
    default="both",
    show_default=True,
    help="Python tier: is a compiled kernel one step (coarse), or each of its accesses (fine)?",
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--delayed-stores", is_flag=True, help="Stores in kernels may become visible late.")
@click.option("--mutant", default="", metavar="NAME", help="Plant a known bug.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
@click.option("--at-least", type=click.IntRange(0), default=0, help="Fewer schedules in all are too few to judge.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--replay", "token", metavar="TOKEN", help="Run the one schedule of a token and list it.")
def command(
    names: tuple[str, ...],
    is_list: bool,
    is_all: bool,
    token: str | None,
    as_json: bool,
    jobs: int,
    at_least: int,
    **options: Any,
) -> int:
    """Search the schedules of scenarios for one that breaks them.

    Exit code 1: one was found; 4: fewer schedules were run than --at-least asks for.
    """
    if token:
        return show_one(replay(token), as_json)
    if is_list:
        return show_list(as_json)
    if is_all:
        names = (*scenarios(), *compiled_scenarios())
    if not names:
        raise click.UsageError("name a scenario, or --all; --list names them")
    reports = []
    work = [(name, options) for name in names]
    if jobs == 1:
        for one in work:
            tell(one[0])
            reports.append(run_one(one))
    else:
        with ProcessPoolExecutor(jobs) as pool:
            for report in pool.map(run_one, work):
                tell(report.scenario)
                reports.append(report)
    show(reports, as_json)
    total = sum(report.schedules for report in reports)
    if not as_json:
        print(f"{total:,} schedules in all")
    if not all(report.is_clean for report in reports):
        return EXIT_CHECK_FAILED
    return 0 if total >= at_least else EXIT_NOISY


def run_one(work: tuple[str, dict[str, Any]]) -> Report:
    """Explore one scenario of either tier; in a process of its own with --jobs."""
    name, options = work
    tier = "compiled" if is_compiled(name) else "python"
    limit = WITHOUT_LIMIT if options["seconds"] else SCHEDULES[tier]
    common = {
        "schedules": options["schedules"] or limit,
        "strategy": options["strategy"],
        "seed": options["seed"],
        "seconds": options["seconds"],
        "delayed_stores": options["delayed_stores"],
        "mutant": options["mutant"],
    }
    if tier == "compiled":
        return explore_compiled(name, **common)
    return explore(name, grain=options["grain"], **common)


def tell(text: str) -> None:
    """Show progress where somebody sees it."""
    if sys.stderr.isatty():
        print(f"netstack explore: {text}", file=sys.stderr)


def show_one(report: Report, as_json: bool) -> int:
    """Print one replayed schedule."""
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        print(report.listing)
        print(f"{report.scenario}: {report.failure or 'no failure'}; {report.steps} steps, digest {report.digest}")
        if report.diverged:
            print("the code offers other choices than when the token was made")
    return 0 if report.is_clean else EXIT_CHECK_FAILED


def show_list(as_json: bool) -> int:
    """Print both tiers."""
    rows = [
        ("python", e.name, e.ncpu, e.what, [m.name for m in MUTANTS.values() if m.scenario == e.name])
        for e in scenarios().values()
    ]
    rows += [("compiled", name, e.ncpu, e.description, list(e.mutants)) for name, e in compiled_scenarios().items()]
    if as_json:
        for tier, name, ncpu, what, mutants in rows:
            print(json.dumps({"tier": tier, "name": name, "ncpu": ncpu, "what": what, "mutants": mutants}))
        return 0
    table = new_table("tier", "scenario", "CPUs", "what must hold", "mutants")
    for tier, name, ncpu, what, mutants in rows:
        table.add_row(tier, name, str(ncpu), what, ", ".join(mutants))
    print_table(table)
    return 0


def show(reports: list[Report], as_json: bool) -> None:
    """Print reports as a table and then the failures, or as JSON lines."""
    if as_json:
        for report in reports:
            print(json.dumps(report.as_dict()))
        return
    table = new_table("tier", "scenario", "strategy", "seed", "schedules", "steps", "states", "per s", "result")
    for r in reports:
        rate = f"{r.schedules / r.seconds:,.0f}" if r.seconds else ""
        states = str(r.states) if r.states else ""
        verdict = f"found after {r.found_after:,}" if r.failure else "exhausted, clean" if r.is_exhausted else "clean"
        counts = (str(r.seed), f"{r.schedules:,}", f"{r.steps:,}", states, rate)
        table.add_row(r.tier, r.scenario, r.strategy, *counts, verdict)
    print_table(table)
    for r in reports:
        if r.failure:
            print(f"\n{r}")


def new_table(*columns: str) -> Any:
    """Return an empty table."""
    from rich.table import Table

    return Table(*columns, box=None)


def print_table(table: Any) -> None:
    """Print it as wide as it needs to be where nobody looks."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)
