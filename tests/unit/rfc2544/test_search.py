"""The search finds a known capacity within the resolution, and says when it cannot judge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstack.rfc2544.search import Limits, Trial, Verdict, judge, search


def trial(rate: float, forwarded: float, late: int = 0, seconds: float = 1.0) -> Trial:
    sent = round(rate * seconds)
    return Trial(rate, seconds, sent, min(sent, round(forwarded * seconds)), late)


class Device:
    """Forwards everything up to ``capacity``; above it what ``overload`` says of the rate."""

    def __init__(self, capacity, overload=lambda capacity, rate: capacity * 0.999):
        self.capacity = capacity
        self.overload = overload
        self.rates: list[float] = []

    def __call__(self, rate):
        self.rates.append(rate)
        is_within = rate <= self.capacity
        return trial(rate, rate if is_within else self.overload(self.capacity, rate))


capacities = st.floats(1e4, 1e8)
shares = st.floats(0.02, 50)
overloads = st.sampled_from(
    [
        lambda capacity, rate: capacity * 0.999,  # sheds the excess
        lambda capacity, rate: capacity * capacity / rate * 0.999,  # receive livelock
        lambda capacity, rate: rate - 1,  # loses a frame
        lambda capacity, rate: 0.0,  # stops dead
    ]
)


@given(capacities, shares, st.none() | shares, st.sampled_from([0.001, 0.01, 0.1]), overloads)
def test_finds_the_capacity_within_the_resolution(capacity, ceiling, guess, resolution, overload):
    device = Device(capacity, overload)
    found = search(
        device,
        capacity * ceiling,
        guess_fps=guess and capacity * guess,
        limits=Limits(resolution),
    )
    assert found.best is not None and not found.noisy
    assert found.trials == len(device.rates)
    assert found.best.rate_fps <= capacity
    if ceiling <= 1:
        assert found.best.rate_fps == capacity * ceiling
    else:
        assert found.best.rate_fps > capacity * (1 - resolution) * (1 - 1e-9)
        assert found.failed_fps == pytest.approx(capacity, rel=resolution * 1.02)


@given(capacities, shares, overloads)
def test_both_ends_of_the_bracket_are_trials(capacity, ceiling, overload):
    device = Device(capacity, overload)
    found = search(device, capacity * ceiling)
    assert found.best.rate_fps in device.rates
    assert found.failed_fps is None or found.failed_fps in device.rates


def test_a_ceiling_that_passes_takes_one_trial():
    found = search(Device(2e6), 1e6)
    assert (found.trials, found.best.rate_fps, found.failed_fps) == (1, 1e6, None)


def test_a_device_that_sheds_only_the_excess_is_found_in_few_trials():
    found = search(Device(3.3e5), 2.6e6)
    assert found.trials <= 4


def test_nothing_passes():
    found = search(lambda rate: trial(rate, 0), 1e6)
    assert found.best is None and not found.noisy
    assert found.trials < 30


def test_accepted_loss_counts_as_passing():
    found = search(Device(1e6, lambda capacity, rate: capacity), 3e6, limits=Limits(0.01, loss=0.1))
    assert 0 < found.best.loss <= 0.1
    assert found.best.rate_fps == pytest.approx(1e6 / 0.9, rel=0.011)


def test_one_spurious_loss_is_tried_again():
    def device(rate, seen=[]):  # noqa: B006 -- counts the trials
        seen.append(rate)
        hiccup = len(seen) % 3 == 1
        return trial(rate, rate - 1 if hiccup or rate > 1e6 else rate)

    found = search(device, 1e7, guess_fps=9.9e5, limits=Limits(0.01, tries=2, confirmations=2))
    assert not found.noisy and found.confirmed == 2
    assert found.best.rate_fps > 0.98e6


def test_a_rate_that_does_not_hold_is_given_up():
    budget = [3]

    def device(rate):
        if 0.95e6 < rate <= 1e6 and budget[0]:
            budget[0] -= 1
            return trial(rate, rate)
        return trial(rate, rate if rate <= 0.95e6 else rate - 1)

    found = search(device, 1e6, limits=Limits(0.01, confirmations=3))
    assert found.best.rate_fps <= 0.95e6
    assert found.confirmed == 3 and not found.noisy


def test_trials_that_contradict_each_other_are_noise():
    outcomes = iter([True] + [False] * 1000)

    def device(rate):
        return trial(rate, rate if next(outcomes) or rate < 0.4e6 else rate - 1)

    found = search(device, 1e6, limits=Limits(0.01, confirmations=1))
    assert "disagree" in found.noisy


def test_what_the_host_took_away_is_neither_loss_nor_late():
    def device(share):
        return lambda rate: Trial(
            rate, 1.0, round(rate), round(rate if rate <= 1e6 else 1e6), paused=round(rate * share)
        )

    found = search(device(0.1), 2e6)
    assert found.best.rate_fps == pytest.approx(1e6, rel=0.01) and not found.noisy
    assert "other work for 33%" in search(device(0.5), 2e6).noisy


def test_reports_the_middle_one_of_the_trials_that_held():
    forwarded = iter([1000, 998, 999])
    found = search(
        lambda rate: Trial(rate, 1.0, 1000, next(forwarded)),
        1e3,
        limits=Limits(0.01, loss=0.01, confirmations=2),
    )
    assert (found.best.forwarded, found.confirmed) == (999, 2)


def test_a_search_that_does_not_end_is_noise():
    outcomes = iter([True, False] * 100)

    def device(rate):
        return trial(rate, rate if next(outcomes) else rate - 1)

    found = search(device, 1e6, limits=Limits(0.001, confirmations=50, trials_max=20))
    assert found.trials <= 21 and found.noisy


def test_a_generator_that_never_keeps_pace_is_noise_not_loss():
    found = search(lambda rate: trial(rate, rate, late=round(rate)), 1e6)
    assert found.best is None and "generator" in found.noisy


@pytest.mark.parametrize(
    ("sent", "forwarded", "late", "verdict"),
    [
        (1000, 1000, 0, Verdict.PASSED),
        (1000, 1000, 20, Verdict.PASSED),
        (1000, 1000, 21, Verdict.GENERATOR),
        (1000, 999, 0, Verdict.LOSS),
        (0, 0, 0, Verdict.GENERATOR),
    ],
)
def test_verdicts(sent, forwarded, late, verdict):
    assert judge(Trial(1e3, 1.0, sent, forwarded, late), Limits()) is verdict


def test_queues_that_grow_would_lose_frames_in_a_longer_trial():
    assert judge(Trial(1e3, 1.0, 1000, 1000, growth_fps=4.0), Limits()) is Verdict.PASSED
    assert judge(Trial(1e3, 1.0, 1000, 1000, growth_fps=6.0), Limits()) is Verdict.GROWING


def test_a_buffer_does_not_pass_for_capacity():
    def device(rate):
        sent = round(rate / 100)
        return Trial(rate, 0.01, sent, sent, growth_fps=max(0.0, rate - 3e5))

    found = search(device, 3e6, limits=Limits(0.01, growth=0.005))
    assert found.best.rate_fps == pytest.approx(3e5, rel=0.01) and found.trials <= 4
