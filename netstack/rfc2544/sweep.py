"""All points of a run: for each kernel and core count a device, for each frame size a search.

Called by the command and by tests.  The clock is the machine's; nothing is printed here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from netstack.rfc2544.dut import Dut
from netstack.rfc2544.report import COUNTS, Row
from netstack.rfc2544.rig import CORES_MAX, GENERIC, Setup
from netstack.rfc2544.search import Found, Limits, Trial, search
from netstack.rfc2544.traffic import wire_fps

__all__ = ["Plan", "points", "run", "setups"]

# Wall clock: the first rate tried, and the highest, as multiples of the unpaced rate.  The unpaced
# rate is too low by what the host took away meanwhile; a rate that is too high tells what fits.
GUESS_OVER_FLAT_OUT = 1.5
CEILING_OVER_FLAT_OUT = 10.0


@dataclass(frozen=True)
class Plan:
    """What to measure, and how exactly.

    Args: frame, drain -- None: what the paper measured on that clock and kernel (``defaults``).
          trial_s -- length of a trial in seconds of the machine's clock.
    """

    clock: str
    kernels: tuple[str, ...]
    cores: tuple[int, ...]
    sizes: tuple[int, ...]
    frame: str | None
    drain: str | int | None
    trial_s: float
    limits: Limits
    seed: int
    addresses: int


class Device(Protocol):
    """What a sweep needs of a device under test."""

    def load(self, frame_bytes: int) -> None: ...
    def flat_out(self) -> Trial: ...
    def trial(self, rate_fps: float) -> Trial: ...
    def close(self) -> None: ...


def setups(plan: Plan) -> Iterator[Setup]:
    """Yield one setup for each kernel and core count, GENERIC only where more cores can differ.

    GENERIC has one interrupt per port: two ports cannot use more than two cores, and in the paper's
    measurement both were on one (its Figures 5 and 7 copy the value of one core).
    """
    for kernel in plan.kernels:
        cores_max = CORES_MAX
        if kernel == GENERIC:
            cores_max = 2 if plan.clock == "wall" else 1
        for cores in plan.cores:
            if cores <= cores_max:
                frame, drain = defaults(plan.clock, kernel)
                yield Setup(
                    plan.clock,
                    kernel,
                    cores,
                    plan.frame or frame,
                    plan.drain or drain,
                    plan.seed,
                    plan.addresses,
                )


def defaults(clock: str, kernel: str) -> tuple[str, str]:
    """Return driver frame and drain limit.

    On the virtual clock GENERIC has the INTx handler of the paper's section 6.2, which drains the ring
    in hard interrupt context; NET_MPSAFE takes one frame per interrupt, in a softint, the combination
    that the cost model's one fitted number (one core, 329 kfps) belongs to.
    """
    if clock == "wall":
        return "softint", "ring"
    return ("classic", "ring") if kernel == GENERIC else ("softint", "one")


def points(plan: Plan) -> list[tuple[Setup, int]]:
    """Return every point of the run: setup and frame size."""
    return [(setup, size) for setup in setups(plan) for size in plan.sizes]


def run(
    plan: Plan,
    build: Callable[[Setup, float], Device] = Dut,
    at_trial: Callable[[Setup, int, Trial], None] | None = None,
) -> Iterator[Row]:
    """Measure every point and yield its row as soon as it is known.

    Args: build -- makes the device from a setup and the trial length; tests give their own.
          at_trial -- called after each trial, for progress.
    """
    for setup in setups(plan):
        device = build(setup, plan.trial_s)
        try:
            for frame_bytes in plan.sizes:
                device.load(frame_bytes)
                report = partial(at_trial, setup, frame_bytes) if at_trial else None
                yield _point(plan, setup, frame_bytes, device, report)
        finally:
            device.close()


def _point(
    plan: Plan,
    setup: Setup,
    frame_bytes: int,
    device: Device,
    report: Callable[[Trial], None] | None,
) -> Row:
    def measure(rate_fps: float) -> Trial:
        trial = device.trial(rate_fps)
        if report:
            report(trial)
        return trial

    if plan.clock == "virtual":
        wires = 2 * wire_fps(frame_bytes)
        found = search(measure, wires, limits=plan.limits)
        return _row(plan, setup, frame_bytes, found, None, wires)
    flat_out = device.flat_out().forwarded_fps
    ceiling, guess = flat_out * CEILING_OVER_FLAT_OUT, flat_out * GUESS_OVER_FLAT_OUT
    found = search(measure, ceiling, guess_fps=guess, limits=plan.limits)
    return _row(plan, setup, frame_bytes, found, flat_out, None)


def _row(
    plan: Plan,
    setup: Setup,
    frame_bytes: int,
    found: Found,
    flat_out: float | None,
    wires: float | None,
) -> Row:
    kfps = found.best.forwarded_fps / 1e3 if found.best else 0.0
    return Row(
        clock=setup.clock,
        kernel=setup.kernel,
        frame=setup.frame,
        cores=setup.cores,
        frame_bytes=frame_bytes,
        kfps=kfps,
        mbps=kfps * frame_bytes * 8 / 1000,
        loss=found.best.loss if found.best else 1.0,
        trials=found.trials,
        n=found.confirmed + (found.best is not None),
        offered_kfps=found.best.rate_fps / 1e3 if found.best else 0.0,
        failed_kfps=found.failed_fps / 1e3 if found.failed_fps else None,
        flat_out_kfps=flat_out / 1e3 if flat_out else None,
        wire_percent=100 * kfps * 1e3 / wires if wires else None,
        paused_percent=100 * found.best.paused_share if found.best else 0.0,
        trial_s=plan.trial_s,
        resolution=plan.limits.resolution,
        drain=str(setup.drain),
        addresses=setup.addresses,
        seed=setup.seed,
        counts=COUNTS[setup.clock],
        noisy=found.noisy,
    )
