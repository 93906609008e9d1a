"""Overload (paper §3.3, §6.2): a softint with a budget keeps its rate, a hard handler that drains does not."""

import pytest

from netstack.rfc2544.overload import Case, Point, sweep
from netstack.rfc2544.rig import GENERIC, NET_MPSAFE


def rates(case: Case, *loads: float) -> list[Point]:
    return list(sweep((case,), loads, trial_s=0.02))


@pytest.mark.parametrize("drain", [32, "one"])
def test_a_softint_with_a_budget_keeps_its_rate(drain: int | str) -> None:
    half, twice, four = rates(Case(NET_MPSAFE, "softint", drain), 0.5, 2.0, 4.0)
    assert half.forwarded_fps == pytest.approx(half.offered_fps, rel=0.02)
    assert four.forwarded_fps >= 0.95 * twice.forwarded_fps >= 1.5 * half.forwarded_fps
    assert twice.wasted == four.wasted == 0, "what does not fit is left to the NIC: no work is lost"


@pytest.mark.parametrize("kernel", [GENERIC, NET_MPSAFE])
def test_a_hard_handler_that_drains_the_ring_collapses(kernel: str) -> None:
    quarter, four = rates(Case(kernel, "classic", "ring"), 0.25, 4.0)
    assert quarter.forwarded_fps == pytest.approx(quarter.offered_fps, rel=0.02)
    assert four.forwarded_fps < 0.2 * quarter.forwarded_fps
    assert four.wasted > 1000, "frames were received, queued for the softint, and thrown away"


def test_one_frame_an_interrupt_helps_the_line_and_msix_more() -> None:
    """Paper §6.2: 99 kfps with the loop, 256 with one frame an interrupt, 330 with MSI-X."""
    load = 0.5  # 162 kfps
    (loop,) = rates(Case(GENERIC, "classic", "ring"), load)
    (one,) = rates(Case(GENERIC, "classic", "one"), load)
    (msix,) = rates(Case(NET_MPSAFE, "softint", "one"), load)
    assert loop.forwarded_fps < 0.9 * one.forwarded_fps
    assert one.forwarded_fps == pytest.approx(msix.forwarded_fps, rel=0.02)
