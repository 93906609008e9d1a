"""Measure several things in turns, so that what the host does meanwhile hits all of them alike.

A round runs each once, the next round in the opposite order.  Rates of one round may be divided by
each other; medians are of those ratios, never of rates from different minutes.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from statistics import median

from netstack._fast import probe

__all__ = ["alu_rate", "host_cpus", "medians", "ratio", "rounds"]

ALU_LOOPS = 20_000_000


def host_cpus() -> list[int]:
    """Return the CPUs this process may use."""
    return sorted(os.sched_getaffinity(0))


def rounds(count: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run every measure once a round, forth and back; the values of each in order."""
    values: dict[str, list[float]] = {name: [] for name in measures}
    names = list(measures)
    for _ in range(count):
        for name in names:
            values[name].append(measures[name]())
        names.reverse()
    return values


def medians(values: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median of each measure."""
    return {name: median(series) for name, series in values.items()}


def ratio(values: Mapping[str, list[float]], above: str, below: str) -> float:
    """Return the median of the ratios of two measures, each taken in one round."""
    return median(a / b for a, b in zip(values[above], values[below], strict=True))


def alu_rate(threads: int, loops: int = ALU_LOOPS) -> float:
    """Return how many turns a second of a loop without memory ``threads`` pinned threads make.

    Two threads over one is what this host really gives two CPUs; scaling is stated beside it.
    """
    cpus = host_cpus()
    gate = threading.Barrier(threads + 1)

    def work(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})  # of this thread
        gate.wait()
        probe.alu(loops)
        gate.wait()

    workers = [threading.Thread(target=work, args=(cpus[i],)) for i in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    start = time.perf_counter()
    gate.wait()
    elapsed = time.perf_counter() - start
    for worker in workers:
        worker.join()
    return threads * loops / elapsed
