"""``netstack bridge``: bridge real interfaces and capture files.

Counters on stdout at the end, as tables or as one JSON object; while it runs, a live table on
stderr when that is a terminal, and a line there when an interface is lost.  Exit codes: 0 ended as
asked; 1 a file was bad, no interface was left, or a frame is not accounted for; 2 usage; 3 an
interface or a privilege is missing.

With capture files alone the machine runs in virtual time: frames go in in the order of their times,
addresses age by them, and the same files and seed give the same output.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import click

from netstack.cmd.bridge_members import (
    FileMember,
    HostMember,
    Member,
    batches,
    open_files,
    open_hosts,
)
from netstack.cmd.bridge_view import View, final_tables
from netstack.cmd.main import EXIT_CHECK_FAILED, EXIT_LACKS, complain
from netstack.errors import NetstackError, NoSuchInterfaceError
from netstack.net.bridge_ctl import Bridge
from netstack.params import BRIDGE_RTABLE_MAX_LIMIT, BRIDGE_RTABLE_TIMEOUT_S, CPU_MAX
from netstack.ports.spec import parse_all
from netstack.topology import Machine

__all__ = ["command"]

SLICE_S = 0.2  # of the machine's run; between slices changes are looked at
FEED_SLICE_S = 0.02  # while there are files to read
REFRESH_PER_S = 2
ADDRESSES = 4096
SEED_BYTES = 4
GAP_MAX_S = 1e6  # a longer gap in a capture counts as this: sweeping it takes real time
GAP_LEAST_S = 3600.0


@click.command("bridge")
@click.argument("ports", nargs=-1, required=True, metavar="PORT PORT...")
@click.option("--for", "seconds", type=click.FloatRange(0.0), help="Stop after so many seconds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout at the end.")
@click.option("--cpus", type=click.IntRange(1, CPU_MAX), default=1, show_default=True, help="CPUs that work.")
@click.option(
    "--maxaddr",
    type=click.IntRange(1, BRIDGE_RTABLE_MAX_LIMIT),
    default=ADDRESSES,
    show_default=True,
    help="Addresses the bridge holds.",
)
@click.option(
    "--timeout",
    type=click.IntRange(0),
    default=BRIDGE_RTABLE_TIMEOUT_S,
    show_default=True,
    help="Seconds an address lives without traffic; 0: for ever.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of hash keys.  [default: random]")
def command(
    ports: tuple[str, ...],
    seconds: float | None,
    as_json: bool,
    cpus: int,
    maxaddr: int,
    timeout: int,
    seed: int | None,
) -> int:
    """Bridge interfaces of this host and capture files.

    \b
    PORT is   veth0            an interface of the host
              tap:tap0         a TAP interface, made if there is none
              xdp:veth0        an interface through AF_XDP: its hosts must not offload
              pcap:in.pcap     a capture file that exists: frames come in
              pcap:out.pcapng  one that does not: what goes out is written
              pcap:IN,OUT      both; pcap:,OUT writes whether OUT exists or not

    Runs until Ctrl-C, until --for is over, or, with files alone, until all are read.
    """
    if len(ports) < 2:
        raise click.UsageError("a bridge needs two ports at least")
    specs = parse_all(ports)
    is_live = any(spec.kind != "pcap" for spec in specs)
    has_files = any(spec.kind == "pcap" for spec in specs)
    if seed is None:
        seed = int.from_bytes(os.urandom(SEED_BYTES), "little")
    with ExitStack() as undo:
        try:
            machine = Machine(ncpu=cpus, clock="wall" if is_live else "virtual", seed=seed, path="compiled")
            undo.enter_context(machine)
            hosts = open_hosts(machine, specs, offload=not has_files)
        except NoSuchInterfaceError as problem:
            return complain(problem, EXIT_LACKS)
        files = open_files(machine, specs, undo)
        opened: list[Member] = [*hosts, *files]
        by_name = {member.name: member for member in opened}
        members = [by_name[spec.name] for spec in specs]
        bridge = machine.bridge("bridge0", [member.ifp for member in members], maxaddr=maxaddr, timeout=timeout)
        view = View(machine, bridge, members)
        with ended_by_signal() as is_ended, live_table(view):
            run = Run(machine, bridge, hosts, files, is_ended)
            machine_s = run.live(seconds) if is_live else run.replay(seconds)
        report = {
            "seconds": round(machine_s, 3),
            "clock": machine.clock,
            "cpus": cpus,
            "seed": seed,
            "ports": view.ports(),
            "addresses": view.addresses(),
            "bridge": dict(bridge.counters),
            "events": run.events,
            "audit": audited(machine, run),
        }
    show(report, as_json)
    return EXIT_CHECK_FAILED if run.has_failed else 0


class Run:
    """The work: frames from files in, out to files, and an eye on the host's interfaces."""

    def __init__(
        self,
        machine: Machine,
        bridge: Bridge,
        hosts: list[HostMember],
        files: list[FileMember],
        is_ended: threading.Event,
    ) -> None:
        self.machine = machine
        self.bridge = bridge
        self.hosts = hosts
        self.files = files
        self.is_ended = is_ended
        self.events: list[str] = []
        self.has_failed = False

    def live(self, seconds: float | None) -> float:
        """Run on the host's clock; return the seconds that passed."""
        start_ns = self.machine.engine.now_ns()
        passed_s = 0.0
        while not self.is_ended.is_set() and (seconds is None or passed_s < seconds):
            slice_s = SLICE_S
            for member in self.files:
                member.feed()
                if not member.is_exhausted:
                    slice_s = FEED_SLICE_S
            if seconds is not None:
                slice_s = min(slice_s, seconds - passed_s)
            self.machine.run(seconds=slice_s)
            for member in self.files:
                member.drain()
            self.look()
            if self.hosts and all(host.state == "gone" for host in self.hosts):
                self.report("no interface is left", is_failure=True)
                break
            passed_s = (self.machine.engine.now_ns() - start_ns) / 1e9
        for host in self.hosts:
            host.ifp.driver.stop_receiving()
        self.machine.run()  # what is under way goes out
        for member in self.files:
            member.drain()
        return passed_s

    def replay(self, seconds: float | None) -> float:
        """Run files through in virtual time; return the seconds of the capture."""
        gap_s = min(max(GAP_LEAST_S, 2.0 * self.bridge.timeout), GAP_MAX_S)
        origin_ns: int | None = None
        first_ns = stamp_ns = 0
        for stamp_ns, member, frames in batches(self.files, seconds):
            if origin_ns is None:
                first_ns = origin_ns = stamp_ns
            ahead_s = (stamp_ns - origin_ns - self.machine.engine.now_ns()) / 1e9
            if ahead_s > gap_s:  # in the gap everything that can expire does
                origin_ns += round((ahead_s - gap_s) * 1e9)
                ahead_s = gap_s
            if ahead_s >= 1.0:
                self.machine.run(seconds=ahead_s)
            member.ifp.wire.send(frames)
            self.machine.run()
            for other in self.files:
                other.drain(stamp_ns)
            self.look()
            if self.is_ended.is_set():
                break
        self.look()
        return (stamp_ns - first_ns) / 1e9

    def look(self) -> None:
        """Say what has changed; an interface that is gone leaves the bridge with its addresses."""
        for host in self.hosts:
            news = host.news()
            if not news:
                continue
            if host.state == "gone":
                self.bridge.delete(host.ifp)
                self.report(f"{news}; the other ports go on")
            else:
                self.report(news)
        for member in self.files:
            if news := member.news():
                self.report(news, is_failure=True)

    def report(self, line: str, is_failure: bool = False) -> None:
        """Print a line on stderr and keep it for the end."""
        self.events.append(line)
        self.has_failed |= is_failure
        print(f"netstack bridge: {line}", file=sys.stderr, flush=True)


def audited(machine: Machine, run: Run) -> dict[str, Any]:
    """Return the machine's accounts; when they do not add up, say so and fail the run."""
    try:
        return {"exact": True, **machine.audit()}
    except NetstackError as problem:
        run.report(str(problem), is_failure=True)
        return {"exact": False, "problem": str(problem)}


@contextmanager
def ended_by_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; the old handlers come back afterwards."""
    is_ended = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield is_ended
        return
    old = {number: signal.signal(number, lambda *_: is_ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield is_ended
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def live_table(view: View) -> Any:
    """Return a context in which the table is shown, if stderr is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    return Live(get_renderable=view.live, console=console, refresh_per_second=REFRESH_PER_S, screen=False)


def show(report: dict[str, Any], as_json: bool) -> None:
    """Print the end of a run on stdout."""
    if as_json:
        print(json.dumps(report))
        return
    from rich.console import Console

    Console().print(final_tables(report))
