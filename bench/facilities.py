"""What the kernel facilities of the wall machine cost, each beside a yardstick taken in the same rounds.

``python -m bench.facilities`` prints medians over ``--rounds`` interleaved rounds.  Three groups:

* primitives, compiled, uncontended: a million in one call, beside a locked addition or the C library's lock;
* facilities, called from Python, uncontended: beside ``threading.Lock``;
* latencies between threads: beside waking a thread with ``threading.Event``.

The host's other work shows in the latencies first; the yardstick beside each tells how much.
"""

import argparse
import json
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

from bench.interleave import host_cpus, rounds
from netstack import Machine
from netstack._fast import probe
from netstack._fast.intr import IntrSource
from netstack._fast.lock import SpinLock
from netstack._fast.pcq import ObjectPcq
from netstack._fast.pserialize import STRATEGIES, PSerialize
from netstack.kern.mutex import Mutex
from netstack.kern.pcq import Pcq
from netstack.kern.psref import PsrefClass, PsrefTarget
from netstack.kern.rwlock import RW_READER, RW_WRITER, RwLock
from netstack.kern.spl import IPL
from netstack.rfc2544.results import host

__all__ = ["YARDSTICK", "Cost", "FacilityRig", "measure"]

Measure = Callable[[], float]

# What each is compared with.
ATOMIC, MUTEX, RWLOCK = "atomic addition", "pthread mutex", "pthread rwlock (reader)"
LOCK, EVENT, ROUND_TRIP = "threading.Lock", "threading.Event wakes a thread", "threading.Event there and back"
YARDSTICK = {
    **{f"read section, {strategy}": ATOMIC for strategy in STRATEGIES},
    "spin lock": MUTEX,
    "pcq put, get": ATOMIC,
    MUTEX: ATOMIC,
    RWLOCK: ATOMIC,
    "Mutex, adaptive": LOCK,
    "Mutex, spin": LOCK,
    "RwLock, reader": LOCK,
    "RwLock, writer": LOCK,
    "Pserialize section": LOCK,
    "psref acquire, release": LOCK,
    "Pcq put, get": LOCK,
    "softint: schedule to run, CPU asleep": EVENT,
    "softint: schedule to run, CPU polls": EVENT,
    "interrupt to softint, CPU asleep": EVENT,
    "interrupt to softint, CPU polls": EVENT,
    "pserialize_perform, CPUs asleep": ROUND_TRIP,
    "pserialize_perform, CPU polls": ROUND_TRIP,
}

POLL_NS = 4 * 10**9  # longer than any measure


@dataclass(frozen=True)
class Cost:
    """One line of the table; nanoseconds, medians of ``n`` rounds; ``ratio`` the median of the rounds' ratios."""

    what: str
    ns: float
    beside: str
    beside_ns: float
    ratio: float
    n: int


class Relay:
    """A thread that waits for an event, and notes when it was woken."""

    def __init__(self) -> None:
        self.go, self.done = threading.Event(), threading.Event()
        self.woken_ns = 0
        self._is_over = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wake(self) -> tuple[int, int]:
        """Return nanoseconds until the thread ran, and until the caller knew."""
        self.done.clear()
        start = time.perf_counter_ns()
        self.go.set()
        self.done.wait()
        return self.woken_ns - start, time.perf_counter_ns() - start

    def close(self) -> None:
        """End the thread."""
        self._is_over = True
        self.go.set()
        self._thread.join()

    def _work(self) -> None:
        while True:
            self.go.wait()
            self.woken_ns = time.perf_counter_ns()
            self.go.clear()
            if self._is_over:
                return
            self.done.set()


class Handlers:
    """A softint on the last CPU that notes when it ran, and an interrupt whose handler schedules it."""

    def __init__(self, m: Machine) -> None:
        self.engine = m.engine
        self._ran = threading.Event()
        self._ran_ns = 0
        self._softint = m.engine.softints.establish("net", self._run, name="bench")
        self.source = IntrSource(m.engine.controller)
        m.engine.intrs.establish(
            self.source, IPL.VM, self._hard, name="bench", cpu=m.ncpu - 1,
            kind="softdrv", softint=self._softint.handle,
        )

    def softint(self) -> float:
        """Return nanoseconds from schedule to run."""
        return self._timed(lambda: self.engine.softints.schedule_cpu(self._softint, self.engine.cpus[-1].index))

    def interrupt(self) -> float:
        """Return nanoseconds from the device's raising the interrupt to the softint's running."""
        self.source.enable()
        return self._timed(self.source.raise_)

    def _timed(self, cause: Callable[[], object]) -> float:
        self._ran.clear()
        start = time.perf_counter_ns()
        cause()
        if not self._ran.wait(10):
            raise RuntimeError("the softint did not run within 10 s")
        return self._ran_ns - start

    def _hard(self, _: object) -> None:
        self.engine.softints.schedule(self._softint)

    def _run(self, _: object) -> None:
        self._ran_ns = time.perf_counter_ns()
        self._ran.set()


class FacilityRig:
    """Machines that sleep when idle and machines that poll, one thread to wake, and a measure of each kind."""

    def __init__(self, loops: int = 200_000) -> None:
        self.loops = loops
        self.calls = max(loops // 100, 50)
        self.relay = Relay()
        self.machines = {}
        # a CPU that polls takes a processor; the handlers and this thread need one too
        for kind, ncpu in (("asleep", 2), ("polls", 1)):
            m = self.machines[kind] = Machine(ncpu=ncpu, clock="wall")
            if kind == "polls":
                for cpu in m.engine.cpus:
                    cpu.block.busy_poll_ns = POLL_NS
        self.handlers = {kind: Handlers(m) for kind, m in self.machines.items()}
        self.measures: dict[str, Measure] = {**self._primitives(), **self._facilities(), **self._latencies()}

    def close(self) -> None:
        """End all threads."""
        for m in self.machines.values():
            m.close()
        self.relay.close()

    def _primitives(self) -> dict[str, Measure]:
        n, lock, queue = self.loops, SpinLock(), ObjectPcq(16)
        table: dict[str, Measure] = {
            ATOMIC: lambda: probe.atomic_add(n) / n,
            MUTEX: lambda: probe.pthread_mutex(n) / n,
            RWLOCK: lambda: probe.pthread_rwlock(n) / n,
            "spin lock": lambda: probe.spin_lock(lock, n) / n,
            "pcq put, get": lambda: probe.pcq_pass(queue, n) / n,
        }
        for strategy in STRATEGIES:
            psz = PSerialize(2, strategy)
            table[f"read section, {strategy}"] = lambda psz=psz: probe.read_section(psz, 0, n) / n
        return table

    def _facilities(self) -> dict[str, Measure]:
        engine = self.machines["asleep"].engine
        plain, adaptive, spin = threading.Lock(), Mutex(engine, "bench"), Mutex(engine, "bench", IPL.VM)
        rw, queue = RwLock(engine, "bench"), Pcq[int](16)
        target = PsrefTarget(PsrefClass(engine, "bench"), "bench")
        psz, cpu = engine.pserialize, engine.cpus[0]
        return {
            LOCK: self._each(lambda: (plain.acquire(), plain.release())),
            "Mutex, adaptive": self._each(lambda: (adaptive.enter(), adaptive.exit())),
            "Mutex, spin": self._each(lambda: (spin.enter(), spin.exit())),
            "RwLock, reader": self._each(lambda: (rw.enter(RW_READER), rw.exit())),
            "RwLock, writer": self._each(lambda: (rw.enter(RW_WRITER), rw.exit())),
            "Pserialize section": self._each(lambda: psz.read_exit(cpu, psz.read_enter(cpu))),
            "psref acquire, release": self._each(lambda: target.acquire().release()),
            "Pcq put, get": self._each(lambda: (queue.put(1), queue.get())),
        }

    def _latencies(self) -> dict[str, Measure]:
        table: dict[str, Measure] = {
            EVENT: lambda: self.relay.wake()[0],
            ROUND_TRIP: lambda: self.relay.wake()[1],
        }
        for kind, handlers in self.handlers.items():
            state = f"CPU {kind}"
            table[f"softint: schedule to run, {state}"] = self._while_running(kind, handlers.softint)
            table[f"interrupt to softint, {state}"] = self._while_running(kind, handlers.interrupt)
        for kind, state in (("asleep", "CPUs asleep"), ("polls", "CPU polls")):
            table[f"pserialize_perform, {state}"] = self._while_running(kind, self._perform(kind))
        return table

    def _perform(self, kind: str) -> Measure:
        psz = self.machines[kind].engine.pserialize

        def perform() -> float:
            start = time.perf_counter_ns()
            psz.perform()
            return time.perf_counter_ns() - start

        return perform

    def _each(self, call: Callable[[], object]) -> Measure:
        """Return a measure of one call, the loop around it included."""

        def timed() -> float:
            start = time.perf_counter_ns()
            for _ in range(self.calls):
                call()
            return (time.perf_counter_ns() - start) / self.calls

        return timed

    def _while_running(self, kind: str, one: Measure) -> Measure:
        """Return a measure taken while the CPUs of a machine run; what polls must not run meanwhile."""

        def timed() -> float:
            with running(self.machines[kind]):
                one()  # threads are up
                time.sleep(0.002)  # and those that sleep, sleep
                return one()

        return timed


@contextmanager
def running(m: Machine) -> Iterator[None]:
    """Let the CPUs work."""
    m.engine.start()
    try:
        yield
    finally:
        m.engine.stop()


def measure(rig: FacilityRig, count: int, names: Sequence[str] = ()) -> list[Cost]:
    """Take ``count`` interleaved rounds of the named facilities (all of them if none) and their yardsticks."""
    wanted = list(names or YARDSTICK)
    both = dict.fromkeys([*wanted, *(YARDSTICK[name] for name in wanted)])
    values: Mapping[str, list[float]] = rounds(count, {name: rig.measures[name] for name in both})
    return [cost(values, name) for name in wanted]


def cost(values: Mapping[str, list[float]], name: str) -> Cost:
    """Return the line of one facility."""
    ours, theirs = values[name], values[YARDSTICK[name]]
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    return Cost(name, median(ours), YARDSTICK[name], median(theirs), ratio, len(ours))


def show(costs: Sequence[Cost]) -> None:
    """Print the table and what it was measured on."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="kernel facilities on the wall clock: medians")
    for heading in ("what", "ns", "beside", "ns", "ratio", "n"):
        table.add_column(heading, justify="left" if heading in ("what", "beside") else "right")
    for line in costs:
        numbers = f"{line.ns:,.1f}", line.beside, f"{line.beside_ns:,.1f}", f"{line.ratio:.2f}", str(line.n)
        table.add_row(line.what, *numbers)
    console = Console()
    console.print(table)
    about = host()
    console.print(
        f"{about['processor']}, {len(host_cpus())} CPUs, {about['system']}, Python {platform.python_version()}, "
        f"kernels {about['kernels']}",
        soft_wrap=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.facilities", description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    rig = FacilityRig()
    try:
        costs = measure(rig, options.rounds)
    finally:
        rig.close()
    if options.json:
        for line in costs:
            print(json.dumps(asdict(line)))
    else:
        show(costs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
