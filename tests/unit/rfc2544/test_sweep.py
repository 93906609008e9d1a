"""A sweep asks the right devices the right things; the devices here are made up."""

import pytest

from netstack.rfc2544.search import Limits, Trial
from netstack.rfc2544.sweep import Plan, points, run, setups


class Device:
    """Forwards up to ``capacity`` frames a second for each core; keeps a record of its use."""

    made: list["Device"] = []  # noqa: RUF012 -- cleared by each test

    def __init__(self, setup, trial_s):
        self.setup = setup
        self.capacity = 1e5 * setup.cores
        self.sizes, self.is_closed = [], False
        Device.made.append(self)

    def load(self, frame_bytes):
        self.sizes.append(frame_bytes)

    def flat_out(self):
        return self.trial(self.capacity)

    def trial(self, rate):
        return Trial(rate, 1.0, round(rate), round(min(rate, self.capacity * 0.9999)))

    def close(self):
        self.is_closed = True


def plan(**changes):
    values = {
        "clock": "virtual",
        "kernels": ("GENERIC", "NET_MPSAFE"),
        "cores": (1, 2, 4),
        "sizes": (64, 1518),
        "frame": None,
        "drain": None,
        "trial_s": 0.01,
        "limits": Limits(0.01),
        "seed": 3,
        "addresses": 8,
    }
    return Plan(**{**values, **changes})


@pytest.fixture(autouse=True)
def _no_devices():
    Device.made.clear()


def test_one_device_for_each_kernel_and_core_count():
    rows = list(run(plan(), Device))
    assert len(rows) == len(points(plan())) == 8
    assert [device.sizes for device in Device.made] == [[64, 1518]] * 4
    assert all(device.is_closed for device in Device.made)


def test_rows_say_what_was_measured():
    rows = list(run(plan(), Device))
    large = next(r for r in rows if r.frame_bytes == 1518 and r.cores == 4)
    small = next(r for r in rows if r.frame_bytes == 64 and r.cores == 4)
    assert large.wire_percent == pytest.approx(100, abs=0.01) and large.trials == 1
    assert small.kfps == pytest.approx(400, rel=0.011)
    assert small.mbps == pytest.approx(small.kfps * 64 * 8 / 1000)
    assert (small.loss, small.seed, small.n) == (0.0, 3, 1)


def test_wall_rows_name_the_unpaced_rate_and_no_wire():
    row = next(run(plan(clock="wall", cores=(1,)), Device))
    assert row.flat_out_kfps == pytest.approx(100, rel=0.01)
    assert row.wire_percent is None and "generator" in row.counts


def test_generic_is_measured_where_cores_can_differ():
    assert [s.cores for s in setups(plan(kernels=("GENERIC",)))] == [1]
    assert [s.cores for s in setups(plan(kernels=("GENERIC",), clock="wall"))] == [1, 2]


def test_defaults_are_what_the_paper_measured():
    generic, mpsafe = (s for s in setups(plan(cores=(1,))))
    assert (generic.frame, generic.drain) == ("classic", "ring")
    assert (mpsafe.frame, mpsafe.drain) == ("softint", "one")


def test_device_is_closed_when_a_trial_raises():
    class Broken(Device):
        def trial(self, rate):
            raise OSError("frames are missing")

    with pytest.raises(OSError, match="missing"):
        list(run(plan(), Broken))
    assert Device.made[0].is_closed


def test_progress_is_told_of_each_trial():
    seen = []
    rows = list(run(plan(cores=(2,)), Device, lambda *what: seen.append(what)))
    assert len(seen) == sum(row.trials for row in rows)
