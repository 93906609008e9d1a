"""The Python layers beside the compiled loop, and how fast the virtual machine runs.

Same machine, same frames, same kernels; what differs is who calls them.  The time of a benchmark
here is the time of a round of trials; microseconds a vector and the rates are in ``extra_info``.
"""

import time

import pytest

from bench.chainrates import FRAME_BYTES, STATIONS
from bench.interleave import medians, ratio, rounds
from netstack.rfc2544.dut import Dut
from netstack.rfc2544.rig import NET_MPSAFE, Setup


def dut_of(path, drain, trial_s):
    """Return a wall-clock device on one CPU, its stations learned."""
    setup = Setup("wall", NET_MPSAFE, 1, "softint", drain, 1, STATIONS // 2, path)
    dut = Dut(setup, trial_s)
    dut.load(FRAME_BYTES)
    return dut


def vectors(dut):
    """Return the vectors received so far."""
    return sum(port.block.counters()["rx_vectors"] for port in dut.ports)


@pytest.mark.benchmark(group="Python stages beside the compiled loop, 1 CPU, 64 B, 10,000 stations")
@pytest.mark.parametrize("drain", ["one", 32, "ring"])
def test_stages(benchmark, is_quick, drain):
    count, trial_s = (2, 0.03) if is_quick else (9, 0.2)
    duts = {path: dut_of(path, drain, trial_s) for path in ("stages", "compiled")}

    def per_vector(dut):
        before = vectors(dut)
        trial = dut.flat_out()
        return trial.forwarded_fps, trial.seconds * 1e6 / (vectors(dut) - before)

    def measure():
        return rounds(count, {path: lambda dut=dut: per_vector(dut) for path, dut in duts.items()})

    try:
        pairs = benchmark.pedantic(measure, rounds=1)
    finally:
        for dut in duts.values():
            dut.close()
    rates = {path: [rate for rate, _ in series] for path, series in pairs.items()}
    spans = {path: [span for _, span in series] for path, series in pairs.items()}
    info = benchmark.extra_info
    info.update({f"{path} M/s": round(v / 1e6, 3) for path, v in medians(rates).items()})
    info.update({f"{path} us/vector": round(v, 3) for path, v in medians(spans).items()})
    info["stages over compiled"] = round(ratio(rates, "stages", "compiled"), 3)
    info["n"] = count


@pytest.mark.benchmark(group="virtual machine: host time a simulated frame")
@pytest.mark.parametrize("kernel", ["GENERIC", "NET_MPSAFE"])
def test_virtual(benchmark, is_quick, kernel):
    trial_s, rate = (0.002 if is_quick else 0.02), 80e3
    frame, drain = ("classic", "ring") if kernel == "GENERIC" else ("softint", "one")
    dut = Dut(Setup("virtual", kernel, 1, frame, drain, 1, 64), trial_s)
    try:
        dut.load(FRAME_BYTES)
        trial = benchmark.pedantic(dut.trial, args=(rate,), rounds=3 if is_quick else 10)
        assert trial.forwarded == trial.sent
        start = time.perf_counter()
        frames = dut.trial(rate).forwarded
        benchmark.extra_info["us/frame"] = round((time.perf_counter() - start) * 1e6 / frames, 1)
    finally:
        dut.close()
