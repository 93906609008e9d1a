"""The compiled loop flat out: 64-byte frames, 10,000 stations, learning on, on one CPU and on two.

Every rate counts frames that left through the sinks and includes the cost of the generators, of the
in-memory NICs and of the sinks.  Beside it, in the same rounds: what two CPUs of this host give a
loop without memory, and how fast one CPU touches received frames and does nothing else.
"""

from collections.abc import Callable

from bench.interleave import alu_rate, host_cpus, rounds
from netstack._fast import probe
from netstack._fast.dring import DescRing
from netstack._fast.mbuf import MbufPool
from netstack.rfc2544.dut import Dut
from netstack.rfc2544.rig import GENERIC, NET_MPSAFE, Setup

__all__ = ["STATIONS", "chain_rates", "kernel_rates"]

STATIONS = 10_000  # both sides together
FRAME_BYTES = 64
ROOFLINE_MBUFS = 512
ROOFLINE_ROUNDS = 20_000


def chain_rates(count: int, trial_s: float) -> dict[str, list[float]]:
    """Measure NET_MPSAFE on one CPU and, where the host has two, on two; all rates in 1/s."""
    cores = [n for n in (1, 2) if n <= len(host_cpus())]
    pool, ring = MbufPool(ROOFLINE_MBUFS, 1), DescRing(ROOFLINE_MBUFS)
    with_probes: dict[str, Callable[[], float]] = {
        "roofline": lambda: (
            ROOFLINE_ROUNDS * ROOFLINE_MBUFS / (probe.roofline(pool, ring, ROOFLINE_MBUFS, ROOFLINE_ROUNDS) / 1e9)
        )
    }
    for n in cores:
        with_probes[f"alu {n}"] = lambda n=n: alu_rate(n)
    return _flat_out(count, trial_s, [(NET_MPSAFE, n) for n in cores], with_probes)


def kernel_rates(count: int, trial_s: float, drain: str | int) -> dict[str, list[float]]:
    """Measure both kernels on one CPU and on two with a given drain limit."""
    points = [(kernel, n) for kernel in (GENERIC, NET_MPSAFE) for n in (1, 2)]
    return _flat_out(count, trial_s, points, {}, drain)


def _flat_out(
    count: int,
    trial_s: float,
    points: list[tuple[str, int]],
    probes: dict[str, Callable[[], float]],
    drain: str | int = "ring",
) -> dict[str, list[float]]:
    """Run the points in turns with the probes; keys are ``NET_MPSAFE 2`` and the like."""
    duts = {
        f"{kernel} {cores}": Dut(Setup("wall", kernel, cores, "softint", drain, 1, STATIONS // 2), trial_s)
        for kernel, cores in points
    }
    try:
        for dut in duts.values():
            dut.load(FRAME_BYTES)
        measures: dict[str, Callable[[], float]] = {
            name: lambda dut=dut: dut.flat_out().forwarded_fps for name, dut in duts.items()
        }
        return rounds(count, {**measures, **probes})
    finally:
        for dut in duts.values():
            dut.close()
