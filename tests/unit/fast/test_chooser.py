"""Choosers: what each strategy decides, and that a schedule is its recorded decisions."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from netstack._fast.chooser import STRATEGIES, Chooser


def walk(chooser: Chooser, lengths: list[int]) -> str:
    """Run threads of so many steps each; return who made each step."""
    left, current, order = list(lengths), -1, ""
    while any(left):
        enabled = sum(1 << i for i, steps in enumerate(left) if steps)
        current = chooser.choose(enabled, current)
        left[current] -= 1
        order += "abcdef"[current]
    return order


def preemptions(order: str, lengths: list[int]) -> int:
    left = dict(zip("abcdef", lengths, strict=False))
    count = 0
    for now, after in pairwise(order):
        left[now] -= 1
        count += now != after and left[now] > 0
    return count


def test_the_same_seed_gives_the_same_schedules() -> None:
    for strategy in STRATEGIES:
        runs = []
        for seed in (1, 1, 2):
            chooser = Chooser(strategy, seed)
            schedules = []
            while chooser.schedules < 20 and chooser.begin():
                schedules.append(walk(chooser, [3, 3, 3]))
            runs.append(schedules)
        assert runs[0] == runs[1]
        assert (runs[0] == runs[2]) == (strategy == "dfs")


def test_the_numbers_are_those_of_every_host() -> None:
    """A token made elsewhere must mean the same here: the generator is part of the format."""
    chooser = Chooser("random", 42)
    chooser.begin()
    assert walk(chooser, [4, 4]) == RANDOM_42
    chooser = Chooser("pct", 42)
    chooser.begin()
    assert walk(chooser, [4, 4]) == PCT_42


RANDOM_42 = "baabbaba"
PCT_42 = "bbbbaaaa"


def test_random_takes_every_option_and_every_schedule() -> None:
    chooser = Chooser("random", 7)
    seen: Counter[str] = Counter()
    for _ in range(3000):
        chooser.begin()
        seen[walk(chooser, [2, 2])] += 1
    assert len(seen) == math.comb(4, 2)
    assert min(seen.values()) > 100


def test_pct_switches_at_most_depth_times() -> None:
    chooser = Chooser("pct", 3, depth=2)
    seen: Counter[str] = Counter()
    for _ in range(2000):
        chooser.begin()
        order = walk(chooser, [5, 5, 5])
        assert preemptions(order, [5, 5, 5]) <= 1  # one change point
        seen[order] += 1
    # three orders without a switch would be 6; with one change point there are many more
    assert len(seen) > 30


def test_pct_learns_how_long_schedules_are() -> None:
    chooser = Chooser("pct", 3, depth=2)
    switched_late = 0
    for _ in range(500):
        chooser.begin()
        order = walk(chooser, [200, 200])
        switched_late += preemptions(order, [200, 200]) and len(order.rstrip(order[-1])) > 100
    assert switched_late > 50


@pytest.mark.parametrize("lengths", [[3, 3], [2, 2, 2], [1, 4]])
@pytest.mark.parametrize("bound", [0, 1, 2, 9])
def test_dfs_goes_through_all_schedules_of_its_bound(lengths: list[int], bound: int) -> None:
    def orders(left: list[int]) -> list[str]:
        if not any(left):
            return [""]
        found = []
        for i, steps in enumerate(left):
            if steps:
                rest = [n - (i == k) for k, n in enumerate(left)]
                found += ["abcdef"[i] + tail for tail in orders(rest)]
        return found

    wanted = {o for o in orders(lengths) if preemptions(o, lengths) <= bound}
    chooser = Chooser("dfs", preemptions=bound)
    seen: Counter[str] = Counter()
    most = 0
    while chooser.begin():
        order = walk(chooser, lengths)
        assert preemptions(order, lengths) <= chooser.bound <= bound
        assert preemptions(order, lengths) >= most or chooser.bound > 0
        seen[order] += 1
        most = max(most, preemptions(order, lengths))
    assert set(seen) == wanted
    assert max(seen.values()) <= bound + 1  # once per bound that allows it
    assert chooser.is_exhausted
    assert not chooser.begin()
    assert not chooser.has_diverged


def test_dfs_notices_a_program_that_is_not_deterministic() -> None:
    chooser = Chooser("dfs", preemptions=2)
    chooser.begin()
    walk(chooser, [2, 2])
    chooser.begin()
    walk(chooser, [2, 2, 2])
    assert chooser.has_diverged


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_choices_replay_the_schedule(strategy: str) -> None:
    chooser = Chooser(strategy, 11)
    for _ in range(10):
        chooser.begin()
    order = walk(chooser, [6, 5, 4])
    replay = Chooser.replay(chooser.choices)
    assert replay.strategy == "replay"
    for _ in range(100):
        assert replay.begin()
        assert walk(replay, [6, 5, 4]) == order
        assert replay.choices == chooser.choices
        assert not replay.has_diverged


def test_a_replay_that_does_not_fit_says_so() -> None:
    replay = Chooser.replay(bytes([5]))
    replay.begin()
    assert replay.choose(0b11, 0) == 0  # what runs goes on
    assert replay.has_diverged
    replay = Chooser.replay(b"")
    replay.begin()
    assert replay.choose(0b110, -1) == 1
    assert not replay.has_diverged  # after the last decision whatever runs goes on


def test_one_option_is_no_decision() -> None:
    chooser = Chooser("random")
    chooser.begin()
    assert chooser.choose(1 << 63, 0) == 63
    assert chooser.choices == b""
    assert chooser.steps == 1
    chooser.choose(3 << 62, -1)
    assert chooser.choices in (b"\x3e", b"\x3f")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strategy": "guess"}, "no strategy 'guess': one of random, pct, dfs"),
        ({"depth": 17}, "depth must be 1..16, not 17"),
        ({"preemptions": -1}, "preemptions must be 0..1048576, not -1"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Chooser(**arguments)


def test_nothing_to_choose_from() -> None:
    chooser = Chooser()
    chooser.begin()
    with pytest.raises(ValueError, match="nothing is enabled"):
        chooser.choose(0, 0)
    with pytest.raises(ValueError, match="an option is 0"):
        chooser.choose(1, 64)
