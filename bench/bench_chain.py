"""Million frames a second of the compiled loop; the ratios are in the record's ``extra_info``.

The time of a benchmark here is the time of a whole round of trials and says nothing; the rates do.
"""

import pytest

from bench.chainrates import chain_rates, kernel_rates
from bench.interleave import host_cpus, medians, ratio


def record(benchmark, values):
    """Put rates, in millions a second, and the number of rounds beside the benchmark."""
    for name, value in medians(values).items():
        benchmark.extra_info[f"{name} M/s"] = round(value / 1e6, 2)
    benchmark.extra_info["n"] = len(next(iter(values.values())))
    benchmark.extra_info["counts"] = "in-memory NICs, generator and drain included"


@pytest.mark.benchmark(group="compiled loop, 64 B, 10,000 stations")
def test_compiled_loop(benchmark, is_quick):
    count, trial_s = (2, 0.03) if is_quick else (15, 0.2)
    values = benchmark.pedantic(chain_rates, args=(count, trial_s), rounds=1)
    record(benchmark, values)
    info = benchmark.extra_info
    info["of roofline"] = round(ratio(values, "NET_MPSAFE 1", "roofline"), 3)
    if "NET_MPSAFE 2" in values:
        info["2 over 1"] = round(ratio(values, "NET_MPSAFE 2", "NET_MPSAFE 1"), 3)
        info["probe 2 over 1"] = round(ratio(values, "alu 2", "alu 1"), 3)
    assert all(rate > 0 for series in values.values() for rate in series)


@pytest.mark.benchmark(group="GENERIC beside NET_MPSAFE, 64 B, 10,000 stations")
@pytest.mark.parametrize("drain", ["one", 32, "ring"])
@pytest.mark.skipif(len(host_cpus()) < 2, reason="needs two CPUs")
def test_kernels(benchmark, is_quick, drain):
    count, trial_s = (2, 0.03) if is_quick else (9, 0.2)
    values = benchmark.pedantic(kernel_rates, args=(count, trial_s, drain), rounds=1)
    record(benchmark, values)
    info = benchmark.extra_info
    info["GENERIC 2 over 1"] = round(ratio(values, "GENERIC 2", "GENERIC 1"), 3)
    info["NET_MPSAFE 2 over 1"] = round(ratio(values, "NET_MPSAFE 2", "NET_MPSAFE 1"), 3)
    info["NET_MPSAFE over GENERIC, 2"] = round(ratio(values, "NET_MPSAFE 2", "GENERIC 2"), 3)
