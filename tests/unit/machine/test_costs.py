"""The cost model: documented, positive, and what the paper fixes of it."""

from errno import EINVAL

import pytest
from sim.rig import FLAT, make

from netstack import NetstackError
from netstack.machine.costs import C2758, STEPS


def test_every_step_says_why() -> None:
    assert all(cost.why and cost.ns >= 0 and cost.byte_ns >= 0 for cost in STEPS.values())


def test_one_core_of_the_paper_comes_out_of_the_sum() -> None:
    # A saturated CPU, one frame per interrupt (paper §6.2): each step once; softints and transmit
    # interrupts serve many frames.  329 kfps are 3.04 us.
    once = ("hardintr", "rx", "bridge_input", "bridge_forward", "if_transmit", "tx")
    frame_ns = sum(STEPS[name].ns for name in once)
    assert frame_ns == pytest.approx(1e9 / 329.0e3, rel=0.05)


def test_a_step_can_be_changed_and_no_other() -> None:
    costs = C2758.with_steps(rx=1.0)
    assert costs.steps["rx"].ns == 1.0 and costs.steps["tx"] == C2758.steps["tx"]
    with pytest.raises(NetstackError) as caught:
        C2758.with_steps(rxx=1.0)
    assert caught.value.errno == EINVAL


def test_an_unknown_step_is_refused_by_charge() -> None:
    engine = make()
    engine.spawn(lambda: engine.charge("nonsense"))
    with pytest.raises(NetstackError, match=r"costs\.py"):
        engine.run()


def test_bytes_cost_where_a_step_copies() -> None:
    engine = make(costs=C2758)
    taken: list[int] = []

    def copy() -> None:
        before_ns = engine.now_ns()
        engine.charge("copy", 2, 1000)
        taken.append(engine.now_ns() - before_ns)

    engine.spawn(copy)
    engine.run()
    assert taken == [2 * STEPS["copy"].ns + 1000 * STEPS["copy"].byte_ns]


def throughput(cpus: tuple[int, ...], costs: object = C2758, frames: int = 400) -> float:
    """Vectors of one frame per second that CPUs forward side by side, per CPU."""
    engine = make(8, costs=costs)

    def forward() -> None:
        for _ in range(frames):
            engine.charge("rx")
            engine.charge("bridge_forward")
            engine.charge("tx")

    for cpu in cpus:
        engine.spawn(forward, cpu=cpu)
    engine.run()
    return frames * 1e9 / engine.now_ns()


def test_sharing_costs_more_the_more_share() -> None:
    one, two, four, eight = (
        throughput(cpus) for cpus in ((0,), (0, 4), (0, 1, 4, 5), tuple(range(8)))
    )
    assert one > two > four > eight > 0
    assert 8 * eight > 4 * four > 2 * two > one  # and yet it scales


def test_a_busy_sibling_slows_a_core_and_another_does_not() -> None:
    apart, together = throughput((0, 2)), throughput((0, 1))
    assert together < 0.85 * apart


def test_without_sharing_cpus_are_alone() -> None:
    free = C2758.without_sharing()
    assert throughput((0,), free) == pytest.approx(throughput(tuple(range(8)), free))
    assert FLAT.line_ns == 0
