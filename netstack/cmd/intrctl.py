"""intrctl(8): which interrupt goes to which CPU, in NetBSD's words (paper §4.2).

``Machine.command("intrctl affinity -i 'wm0 RX1' -c 1")`` calls ``run``; ``Machine.intrctl`` is the
same registry as an object.  An interrupt is named by its id or by what it is for (``wm0 RX1``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from errno import EINVAL
from getopt import GetoptError, getopt
from typing import TYPE_CHECKING

import click

from netstack.cmd.control import number, refuse, usage
from netstack.errors import NetstackError
from netstack.machine.api import IntrRow

if TYPE_CHECKING:
    from netstack.topology import Machine

__all__ = ["command", "run"]

USAGE = (
    "intrctl list [-c] [-z] [-w seconds [-n rounds]] [--json] | intrctl affinity -i interrupt -c cpu"
    " | intrctl intr -c cpu | intrctl nointr -c cpu"
)

ID_HEADER, NAME_HEADER = "interrupt id", "device name(s)"


def run(machine: Machine, argv: list[str]) -> str:
    """Execute one command line and return its output.

    Raises: NetstackError -- EINVAL, a wrong line, no such CPU, or a shielded one; ENOENT, no such
            interrupt, or nointr leaves none; EBUSY, no free slot on that CPU.
    """
    if not argv:
        raise usage(USAGE)
    verb, *words = argv
    intrctl = machine.intrctl
    if verb == "list":
        options = parse(words, "czw:n:", "json")
        return watch(machine, options)
    if verb == "affinity":
        options = parse(words, "i:c:")
        if "-i" not in options:
            raise usage(USAGE)
        intrctl.affinity(options["-i"], cpu_of(machine, options))
        return ""
    if verb in ("intr", "nointr"):
        options = parse(words, "c:")
        change = intrctl.intr if verb == "intr" else intrctl.nointr
        change(cpu_of(machine, options))
        return ""
    raise usage(USAGE)


def watch(machine: Machine, options: dict[str, str]) -> str:
    """Return the list; with ``-w`` again after so many seconds of machine time, ``-n`` (2) times in all.

    The machine runs meanwhile; each round has running totals.  ``-w 0`` is one round, as on NetBSD,
    where ``-w`` goes on until it is interrupted: a call that returns its text cannot.
    """
    seconds = number(options.get("-w", "0"), "seconds", 2**31 - 1)
    rounds = number(options.get("-n", "2"), "rounds", 1_000_000) if seconds else 1
    texts = []
    for i in range(max(rounds, 1)):
        if i:
            machine.run(seconds=seconds)
        texts.append(listing(machine, options))
    return "".join(texts)


def listing(machine: Machine, options: dict[str, str]) -> str:
    """Return the list as it is now."""
    rows = [row for row in machine.intrctl.list() if "-z" not in options or any(row.counts)]
    if "--json" in options:
        return json.dumps([as_dict(row) for row in rows]) + ("\n" if "-w" in options else "")
    return compact(rows) if "-c" in options else table(rows, machine.ncpu)


def parse(words: list[str], short: str, *long: str) -> dict[str, str]:
    """Return the options of a verb.  Raises: NetstackError(EINVAL)."""
    try:
        options, rest = getopt(words, short, list(long))
    except GetoptError as problem:
        raise NetstackError(EINVAL, f"{problem.msg}; usage: {USAGE}") from None
    if rest:
        raise usage(USAGE)
    return dict(options)


def cpu_of(machine: Machine, options: dict[str, str]) -> int:
    """Return the CPU that ``-c`` names.  Raises: NetstackError(EINVAL), there is no such CPU."""
    if "-c" not in options:
        raise usage(USAGE)
    cpu = number(options["-c"], "cpu", 2**31 - 1)
    if cpu >= machine.ncpu:
        raise NetstackError(EINVAL, f"no CPU {cpu}; there are {machine.ncpu}")
    return cpu


def table(rows: Sequence[IntrRow], ncpu: int) -> str:
    """Return one row per interrupt, one count per CPU, ``*`` at the CPU it goes to."""
    id_width = max([len(ID_HEADER), *(len(row.intrid) for row in rows)])
    headers = [f"CPU{i}" for i in range(ncpu)]
    widths = [max([len(header), *(len(str(row.counts[i])) for row in rows)]) for i, header in enumerate(headers)]
    cells = "".join(f"{h:>{w}}  " for h, w in zip(headers, widths, strict=True))
    lines = [f"{ID_HEADER:<{id_width}} {cells}{NAME_HEADER}"]
    for row in rows:
        cells = "".join(f"{row.counts[i]:>{widths[i]}}{'*' if i in row.affinity else ' '} " for i in range(ncpu))
        lines.append(f"{row.intrid:<{id_width}} {cells}{row.name}")
    return "\n".join(lines) + "\n"


def compact(rows: Sequence[IntrRow]) -> str:
    """Return one row per interrupt: total, CPUs it goes to, name."""
    id_width = max([len(ID_HEADER), *(len(row.intrid) for row in rows)])
    lines = [f"{ID_HEADER:<{id_width}} {'total':>20} {'aff':>5} {NAME_HEADER}"]
    for row in rows:
        affinity = ", ".join(map(str, row.affinity)) or "none"
        lines.append(f"{row.intrid:<{id_width}} {sum(row.counts):>20} {affinity:>5} {row.name}")
    return "\n".join(lines) + "\n"


def as_dict(row: IntrRow) -> dict[str, object]:
    """Return one row as a JSON object."""
    return {
        "id": row.intrid,
        "name": row.name,
        "counts": list(row.counts),
        "affinity": list(row.affinity),
        "devices": row.devices,
    }


@click.command("intrctl", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...]) -> None:
    """Show interrupts and choose their CPU: list, affinity, intr, nointr.

    list [-c] [-z] [-w SECONDS [-n ROUNDS]] [--json] | affinity -i INTERRUPT -c CPU | intr -c CPU | nointr -c CPU

    In Python: m.command("intrctl affinity -i 'wm0 RX1' -c 1").
    """
    refuse("intrctl", words)
