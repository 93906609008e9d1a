"""``netstack torture``: the concurrent parts on real threads for a time, and an honest word on what that shows.

Each part runs code of the release kernels on OS threads with random delays, checks it all the while, and counts near
misses: events without which the run would have shown nothing.  Exits with 0 when nothing was violated, 1 when
something was, 4 when a part met too few near misses to judge.

The torturers are in ``_fast/torture*.pyx``; this page knows their names, their share of the time, and how much
pressure is enough.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from errno import EINVAL
from random import SystemRandom
from typing import Any

import click

from netstack.cmd.main import EXIT_CHECK_FAILED, EXIT_NOISY
from netstack.errors import NetstackError

__all__ = ["PARTS", "Outcome", "Part", "command", "torture"]

SLICE_S = 0.5  # a run can be interrupted this often; threads are made anew and rings wrap again
SECONDS = 60.0


@dataclass(frozen=True)
class Part:
    """One thing to torture.

    ``cls`` is the torturer and ``options`` what else it takes; ``share`` of the time, against the
    others; ``work`` names the count that says how much was done; ``near_misses_per_s`` is the least
    that counts as pressure.  ``threads``: as many and no others; 0: as the caller wants.
    """

    kind: str
    name: str
    module: str
    cls: str
    work: str
    options: tuple[str, ...] = ()
    share: int = 1
    near_misses_per_s: float = 20.0
    threads: int = 0


GRACE = ("torture", "GraceTorture", "sections")
PARTS = (
    Part("grace", "grace seqcst", *GRACE, options=("seqcst",), share=4, near_misses_per_s=200.0),
    Part("grace", "grace membarrier", *GRACE, options=("membarrier",), share=4, near_misses_per_s=200.0),
    Part("grace", "grace switch", *GRACE, options=("switch",), share=4, near_misses_per_s=200.0),
    Part("locks", "spin lock", "torture", "LockTorture", "acquisitions"),
    Part("locks", "TX handover", "torture_cpus", "HandoverTorture", "frames"),
    Part("rings", "pcq, one producer", "torture_rings", "RingTorture", "items", ("pcq",), threads=2),
    Part("rings", "pcq", "torture_rings", "RingTorture", "items", ("pcq",)),
    Part("rings", "if_snd", "torture_rings", "RingTorture", "items", ("ifqueue",)),
    Part("softint", "softint", "torture_cpus", "SoftintTorture", "handlers"),
    Part("table", "address table", "torture_table", "TableTorture", "lookups"),
    Part("pool", "mbuf pool", "torture_rings", "PoolTorture", "frees"),
)
KINDS = tuple(dict.fromkeys(part.kind for part in PARTS))


@dataclass(frozen=True)
class Outcome:
    """What came of a part."""

    part: Part
    seconds: float
    threads: int
    counts: dict[str, int]
    violations: dict[str, int]

    @property
    def work(self) -> int:
        return self.counts[self.part.work]

    @property
    def near_misses(self) -> int:
        return self.counts["near_misses"]

    @property
    def near_misses_wanted(self) -> int:
        return max(1, round(self.part.near_misses_per_s * self.seconds))

    @property
    def verdict(self) -> str:
        """Say "violated", "too little pressure" or "ok"."""
        if any(self.violations.values()):
            return "violated"
        return "ok" if self.near_misses >= self.near_misses_wanted else "too little pressure"

    def as_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "part": self.part.name,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 3),
            "threads": self.threads,
            "near_misses_wanted": self.near_misses_wanted,
            "counts": self.counts,
            "violations": self.violations,
            "mean_time_between_failures_above_s": round(self.seconds / 3, 3) if self.verdict == "ok" else None,
        }


def torture(
    part: Part,
    seconds: float,
    threads: int,
    seed: int,
    mutant: str = "",
    progress: Callable[[float], object] = lambda done_s: None,
) -> Outcome:
    """Run one part for a time.

    Args:   progress -- called now and then with the seconds done.
    Raises: NetstackError -- EINVAL, wrong number of threads, or no such mutant.
    """
    from importlib import import_module

    cls = getattr(import_module(f"netstack._fast.{part.module}"), part.cls)
    try:
        run = cls(part.threads or threads, seed, *part.options, mutant=mutant)
    except ValueError as problem:
        raise NetstackError(EINVAL, f"torture of {part.name}: {problem}") from None
    while run.seconds < seconds - 1e-9:
        run.run(min(SLICE_S, seconds - run.seconds))
        progress(run.seconds)
    return Outcome(part, run.seconds, run.threads, run.counts, run.violations)


def usable(part: Part) -> bool:
    """Say whether the host has what a part needs."""
    from netstack._fast.pserialize import membarrier_available

    return "membarrier" not in part.options or membarrier_available()


def conclusion(outcomes: Iterable[Outcome]) -> str:
    """Say what the runs show and what they do not."""
    outcomes = list(outcomes)
    bad = [f"{o.part.name} ({', '.join(f'{k} {n}' for k, n in o.violations.items() if n)})"
           for o in outcomes if o.verdict == "violated"]
    if bad:
        return f"VIOLATED: {'; '.join(bad)}."
    calm = [o.part.name for o in outcomes if o.verdict == "too little pressure"]
    if calm:
        return (f"No violation, but {', '.join(calm)} met too few near misses to judge: more time, more threads, or "
                f"a host with idle processors.")
    least = min(o.seconds for o in outcomes)
    return (f"No violation. If failures came at a steady rate, this host under this load would see them less often "
            f"than once in {least / 3:.2g} s per part, at 95 %. It speaks of delays and lifecycles, not of memory "
            f"order: missing fences hardly ever show here, the models in models/ are for those.")


def rows(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Lay out one line per part."""
    for o in outcomes:
        extra = f", {o.counts['grace_periods']:,} grace periods" if "grace_periods" in o.counts else ""
        yield (f"{o.part.name:18} {o.seconds:7.1f} s {o.threads:3} threads {o.work:>15,} {o.part.work}{extra}; "
               f"near misses {o.near_misses:,}; violations {sum(o.violations.values()):,}")


@click.command("torture")
@click.argument("kinds", nargs=-1, type=click.Choice([*KINDS, "all"]))
@click.option("--for", "seconds", type=click.FloatRange(min=0.1), default=SECONDS, show_default=True,
              help="Seconds in all, shared out among the parts.")
@click.option("--threads", type=click.IntRange(2, 32), help="OS threads; default: processors and one more, 3 at least.")
@click.option("--seed", type=int, help="Of the random delays; default: drawn, and printed.")
@click.option("--mutant", default="", help="Plant this error, to see it found.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per part on stdout.")
def command(kinds: tuple[str, ...], seconds: float, threads: int | None, seed: int | None, mutant: str,
            as_json: bool) -> int:
    """Torture the concurrent parts on real threads: grace, locks, rings, softint, table, pool; or all."""
    seed = SystemRandom().randrange(2**31) if seed is None else seed
    threads = threads or max(3, len(os.sched_getaffinity(0)) + 1)
    parts = [part for part in PARTS if not kinds or "all" in kinds or part.kind in kinds]
    if mutant:
        known = dict.fromkeys(name for part in parts for name in mutants_of(part))
        if mutant not in known:
            raise click.UsageError(f"no mutant {mutant!r} of {' '.join(kinds) or 'all'}: one of {', '.join(known)}")
        parts = [part for part in parts if mutant in mutants_of(part)]
    for part in [part for part in parts if not usable(part)]:
        parts.remove(part)
        print(f"netstack torture: no membarrier(2) here, {part.name} is left out", file=sys.stderr)
    total = sum(part.share for part in parts)
    print(f"netstack torture: seed {seed}, {threads} threads", file=sys.stderr)
    outcomes = []
    for part in parts:
        show = Progress(part)
        outcome = torture(part, seconds * part.share / total, threads, seed, mutant, show)
        show.clear()
        outcomes.append(outcome)
        print(json.dumps({**outcome.as_dict(), "seed": seed, "mutant": mutant}) if as_json else next(rows([outcome])),
              flush=True)
    print(conclusion(outcomes), file=sys.stderr if as_json else sys.stdout)
    verdicts = {outcome.verdict for outcome in outcomes}
    if "violated" in verdicts:
        return EXIT_CHECK_FAILED
    return EXIT_NOISY if "too little pressure" in verdicts else 0


def mutants_of(part: Part) -> tuple[str, ...]:
    """Return the errors that can be planted in a part."""
    from importlib import import_module

    mutants: tuple[str, ...] = getattr(import_module(f"netstack._fast.{part.module}"), part.cls).MUTANTS
    return mutants


class Progress:
    """The seconds done, on stderr when it is a terminal."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def __call__(self, done_s: float) -> None:
        self._show(f"\r{self.part.name}: {done_s:.0f} s ")

    def clear(self) -> None:
        """Leave the line to what comes next."""
        self._show("\r\x1b[K")

    def _show(self, text: str) -> None:
        if sys.stderr.isatty():
            print(text, end="", file=sys.stderr, flush=True)
