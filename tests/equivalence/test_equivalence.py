"""Compiled loop == Python stages, 1 or 256 frames == oracle: frames, order, table, counters.

``NETSTACK_SEED=N`` moves the fixed seeds.  A failure names the seed of its trace; that alone is
replayed by ``NETSTACK_SEED=N pytest tests/equivalence -k one_seed``.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from equivalence.compare import compare, run_traces
from equivalence.sides import MachineSide, OracleSide
from equivalence.trace import INTERFACES, Trace, make_trace

BATCHES = 20
TRACES_PER_BATCH = 50
FRESH_TRACES = 40
SEED_STRIDE = 1_000_000  # batches of different base seeds do not overlap

VIRTUAL: dict[str, dict[str, Any]] = {
    "compiled": {"path": "compiled"},
    "stages n=1": {"path": "stages", "drain": 1},
    "stages n=256": {"path": "stages", "drain": 256},
}
OTHERS: dict[str, dict[str, Any]] = {
    "classic frame, stages": {"path": "stages", "frame": "classic"},
    "classic frame, compiled": {"path": "compiled", "frame": "classic"},
    "GENERIC, stages n=3": {"path": "stages", "kernel": "GENERIC", "drain": 3},
    "GENERIC, classic frame, ring": {"kernel": "GENERIC", "frame": "classic", "drain": "ring"},
    "compiled n=1": {"path": "compiled", "drain": 1},
}

# The ways to remove addresses, and NetBSD's table; compared with each other in the same run.
TABLES: dict[str, dict[str, Any]] = {
    f"{path}, {table}, {flush}": {"path": path, "bridge": {"table": table, "flush": flush}}
    for path in ("compiled", "stages")
    for table, flush in (
        *(("hash", flush) for flush in ("generation", "direct", "paper", "each")),
        *(("chained", flush) for flush in ("paper", "each")),
    )
}
# What keeps readers and writers apart: the same frames under each.
PROTECTIONS: dict[str, dict[str, Any]] = {
    f"{frame}, {protect}": {"path": "stages", "frame": frame, "bridge": {"protect": protect}}
    for frame in ("softint", "classic")
    for protect in ("pserialize", "mutex", "rwlock")
}

Record = Callable[[str, object], None]
MakeSides = Callable[..., list[MachineSide]]


@pytest.fixture
def make_sides() -> Iterator[MakeSides]:
    """Make machines in the configurations asked for, and close them."""
    made: list[MachineSide] = []

    def make(configurations: dict[str, dict[str, Any]], **common: Any) -> list[MachineSide]:
        for name, settings in configurations.items():
            made.append(MachineSide(name, **{"clock": "virtual", **common, **settings}))
        return made

    yield make
    for side in made:
        side.machine.close()


@pytest.mark.parametrize("batch", range(BATCHES))
def test_fixed_traces(batch: int, base_seed: int, make_sides: MakeSides, record_property: Record) -> None:
    first = base_seed * SEED_STRIDE + batch * TRACES_PER_BATCH
    record_property("seeds", f"{first}..{first + TRACES_PER_BATCH - 1} compiled, stages n=1, n=256")
    frames = run_traces(range(first, first + TRACES_PER_BATCH), make_sides(VIRTUAL))
    assert frames > TRACES_PER_BATCH * 200, "traces have become too short to tell anything"


def test_fresh_traces(make_sides: MakeSides, record_property: Record) -> None:
    first = int.from_bytes(os.urandom(6), "big")
    record_property("seeds", f"{first}..{first + FRESH_TRACES - 1} fresh in this run")
    run_traces(range(first, first + FRESH_TRACES), make_sides(VIRTUAL))


@pytest.mark.parametrize("name", OTHERS)
def test_other_configurations(name: str, base_seed: int, make_sides: MakeSides, record_property: Record) -> None:
    first = (base_seed + 1) * SEED_STRIDE - 100 * (1 + list(OTHERS).index(name))
    record_property("seeds", f"{first}..{first + 39} {name}")
    run_traces(range(first, first + 40), make_sides({name: OTHERS[name]}))


def test_tables_and_ways_to_flush(base_seed: int, make_sides: MakeSides, record_property: Record) -> None:
    first = (base_seed + 1) * SEED_STRIDE - 2000
    record_property("seeds", f"{first}..{first + 29} tables and ways to flush")
    run_traces(range(first, first + 30), make_sides(TABLES))


def test_protections(base_seed: int, make_sides: MakeSides, record_property: Record) -> None:
    first = (base_seed + 1) * SEED_STRIDE - 3000
    record_property("seeds", f"{first}..{first + 19} protections")
    run_traces(range(first, first + 20), make_sides(PROTECTIONS))


@pytest.mark.parametrize("path", ["compiled", "stages"])
def test_wall_clock_on_one_cpu(path: str, base_seed: int, make_sides: MakeSides, record_property: Record) -> None:
    first = (base_seed + 1) * SEED_STRIDE - 1000
    record_property("seeds", f"{first}..{first + 39} wall clock, {path}")
    sides = make_sides({f"wall, {path}": {"path": path}}, clock="wall")
    run_traces(range(first, first + 40), sides)


def test_one_seed(base_seed: int, make_sides: MakeSides, record_property: Record) -> None:
    """The trace of NETSTACK_SEED in every virtual configuration: how a failure is replayed."""
    record_property("seeds", f"{base_seed} all virtual configurations")
    run_traces([base_seed], make_sides({**VIRTUAL, **OTHERS}))


def test_the_comparison_can_fail(make_sides: MakeSides) -> None:
    """A side that differs in one flag is told apart, and the report names seed and step."""
    sides = make_sides({"compiled": {"path": "compiled"}})
    own = {name: ifp.block.mac for name, ifp in sides[0].interfaces.items()}
    frame = b"\xff" * 6 + bytes.fromhex("0a0000000001") + b"\x08\x00"
    trace = Trace(77, 100, INTERFACES, (("frames", "wm0", [frame]),))
    compare(trace, sides, OracleSide(own))
    oracle = OracleSide(own)
    oracle.interfaces["wm3"].count.clear()
    sides[0].interfaces["wm3"].down()
    sides[0].begin = lambda maxaddr, members: None  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=r"seed 77: compiled differs.* at step 0"):
        compare(trace, sides, oracle)


def test_traces_contain_what_they_promise() -> None:
    own = {name: bytes([2, 0, 0, 0, 0, i]) for i, name in enumerate(INTERFACES)}
    verbs: set[str] = set()
    lengths: set[int] = set()
    for seed in range(200):
        trace = make_trace(seed, own)
        assert trace == make_trace(seed, own), "a seed is a trace"
        verbs |= {step[0] for step in trace.steps}
        lengths |= {len(f) for step in trace.steps if step[0] == "frames" for f in step[2]}
    assert len(verbs) == 18
    assert min(lengths) < 14 and max(lengths) > 1518
