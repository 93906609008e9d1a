"""Receive livelock (paper §3.3, §6.2; Mogul and Ramakrishnan 1997): what comes out while more and more comes in.

Virtual time, the machine of the paper's section 6.1, 74-byte frames on one core, both directions.  The load goes from a
tenth of the capacity to four times.  Counted: frames that left the transmit engines while the load lasted.
"""

from collections.abc import Iterator
from typing import NamedTuple

from netstack.rfc2544.dut import Dut
from netstack.rfc2544.rig import GENERIC, NET_MPSAFE, Setup

__all__ = ["CASES", "LOADS", "Case", "Point", "sweep"]

FRAME_BYTES = 74
CAPACITY_FPS = 325_000  # NET_MPSAFE on one core, `netstack rfc2544 --clock virtual`
LOADS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
TRIAL_S = 0.05


class Case(NamedTuple):
    """A driver architecture: kernel, driver frame, drain limit."""

    kernel: str
    frame: str
    drain: str | int

    def __str__(self) -> str:
        return f"{self.kernel}, {self.frame}, drain {self.drain}"


CASES = (
    Case(NET_MPSAFE, "softint", 32),
    Case(NET_MPSAFE, "softint", "one"),
    Case(NET_MPSAFE, "classic", "one"),
    Case(NET_MPSAFE, "classic", "ring"),
    Case(GENERIC, "classic", "ring"),
)


class Point(NamedTuple):
    """One trial; rates in frames a second of virtual time."""

    case: Case
    load: float
    offered_fps: float
    forwarded_fps: float
    wasted: int  # frames received and then thrown away: work for nothing


def sweep(
    cases: tuple[Case, ...] = CASES, loads: tuple[float, ...] = LOADS, trial_s: float = TRIAL_S
) -> Iterator[Point]:
    """Yield a point for each case and load.

    Frames in flight when the load ends are not counted as forwarded: the trial is cut there.
    """
    for case in cases:
        for load in loads:
            dut = Dut(Setup("virtual", case.kernel, 1, case.frame, case.drain, 1, 64), trial_s)
            try:
                dut.load(FRAME_BYTES)
                trial = dut.trial(load * CAPACITY_FPS)
            finally:
                dut.close()
            wasted = sum(count for reason, count in trial.lost_by.items() if not reason.startswith("RX_"))
            held = trial.growth_fps * trial.seconds
            forwarded = max(0.0, trial.forwarded - max(0.0, held))
            yield Point(case, load, load * CAPACITY_FPS, forwarded / trial.seconds, wasted)
