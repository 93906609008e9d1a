"""The kernel facilities of the wall machine, each with its ratio to a yardstick of the same rounds.

pytest-benchmark times one measure as a whole; the figures that mean something are its ``extra_info``:
median nanoseconds of one operation or latency, the yardstick's, their ratio, n.  ``python -m
bench.facilities`` prints them as a table.
"""

import pytest

from bench.facilities import YARDSTICK, FacilityRig, cost


@pytest.fixture(scope="module")
def rig(is_quick):
    rig = FacilityRig(loops=20_000 if is_quick else 200_000)
    yield rig
    rig.close()


@pytest.mark.parametrize("name", YARDSTICK)
@pytest.mark.benchmark(group="kernel facilities on the wall clock")
def test_facility(rig, benchmark, is_quick, name):
    """Forth and back in turns with the yardstick, which is taken between the timed calls."""
    beside = YARDSTICK[name]
    values = {name: [], beside: []}

    def yardstick():
        values[beside].append(rig.measures[beside]())

    def one():
        values[name].append(rig.measures[name]())

    benchmark.pedantic(one, setup=yardstick, rounds=5 if is_quick else 51, iterations=1)
    line = cost(values, name)
    assert line.ns > 0 and line.beside_ns > 0
    benchmark.extra_info.update(
        ns=round(line.ns, 2), beside=beside, beside_ns=round(line.beside_ns, 2), ratio=round(line.ratio, 3), n=line.n
    )
