"""The explorer on ordinary machines: shipped code is clean, planted bugs are found, tokens replay."""

import json
import os
from pathlib import Path

import pytest

import netstack
from netstack import Machine, NetstackError
from netstack.cmd.main import main
from netstack.explore.library import scenarios
from netstack.explore.mutants import MUTANTS
from netstack.explore.report import ViolationError
from netstack.explore.search import explore, replay
from netstack.explore.token import Token, decode, encode

SEED = 7
REPLAYS = int(os.environ.get("NETSTACK_REPLAYS", "1"))  # of each planted bug's token; 100 in tox -e explore


@pytest.mark.parametrize("name", list(scenarios()))
def test_shipped_code_is_clean(name: str) -> None:
    for strategy, delayed in (("random", False), ("pct", True)):
        report = explore(name, 8, strategy, SEED, delayed_stores=delayed)  # type: ignore[arg-type]
        report.check()
        assert (report.schedules, report.diverged) == (8, 0)


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_planted_bug_is_found_within_its_budget(name: str) -> None:
    mutant = MUTANTS[name]
    report = explore(
        mutant.scenario, mutant.budget, mutant.strategy, SEED, mutant=name, is_shrinking=False
    )
    assert report.failure, f"seed {SEED}: not within {mutant.budget} schedules of {mutant.scenario}"
    for _ in range(REPLAYS):
        assert replay(report.token).digest == report.digest


def test_a_token_replays_a_hundred_times_to_the_byte() -> None:
    report = explore("condvar-handoff", 500, seed=SEED, mutant="wakeup-lost")
    assert report.failure.startswith("NetstackError: deadlock")
    assert {replay(report.token).digest for _ in range(100)} == {report.digest}


def test_a_failure_is_shrunk_and_listed() -> None:
    long = explore("mutex-handoff", 500, seed=SEED, mutant="mutex-look-then-take", is_shrinking=False)
    short = explore("mutex-handoff", 500, seed=SEED, mutant="mutex-look-then-take")
    assert short.preemptions < long.preemptions
    assert "mutex seen free" in short.listing
    with pytest.raises(ViolationError, match="netstack explore --replay ns1:"):
        short.check()


def test_a_small_scenario_is_exhausted() -> None:
    report = explore("callout-halt", 10_000, "dfs", preemptions_max=1)
    assert report.is_exhausted and report.is_clean


def lost_update() -> None:
    with Machine(ncpu=2) as m:
        box = [0]

        def add() -> None:
            seen = box[0]
            m.engine.charge("rx")
            box[0] = seen + 1

        m.spawn(add, cpu=0)
        m.spawn(add, cpu=1)
        m.run()
        assert box == [2], f"{box[0]} of 2 additions are left"


def test_an_ordinary_function_is_a_scenario() -> None:
    report = netstack.explore(lost_update, schedules=50, seed=SEED)
    assert "1 of 2 additions are left" in report.failure
    assert netstack.replay(report.token, scenario=lost_update).digest == report.digest


def test_who_waits_for_ever_is_named() -> None:
    def stuck() -> None:
        with Machine(ncpu=1) as m:
            m.spawn(lambda: m.engine.wait_until(lambda: False, "better days"), name="waiter")
            m.run()

    report = netstack.explore(stuck, schedules=1)
    assert "thread waiter on CPU 0 waits for better days" in report.failure


def test_the_stack_is_as_before_after_an_exploration() -> None:
    from netstack.machine.virtual import VirtualEngine
    from netstack.net import bridge

    before = bridge.kernels
    explore("member-delete", 2, seed=SEED)
    assert bridge.kernels is before
    with Machine(ncpu=2) as m:
        assert type(m.engine) is VirtualEngine


def test_tokens_read_back() -> None:
    token = Token("a/b.py:f", bytes(range(40)), "some bug", True, False)
    assert decode(encode(token)) == token
    for wrong in ("", "ns0:a::", "ns1:a:what:", "ns1:a::!!!"):
        with pytest.raises(NetstackError):
            decode(wrong)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--list", "--json"]) == 0
    names = {json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()}
    assert names >= set(scenarios())
    assert main(["explore", "callout-halt", "--schedules", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schedules"] == 5
    where = f"{Path(__file__)}:lost_update"
    assert main(["explore", where, "--schedules", "50", "--json"]) == 1
    token = json.loads(capsys.readouterr().out)["token"]
    assert main(["explore", "--replay", token]) == 1
    assert "additions are left" in capsys.readouterr().out
    assert main(["explore"]) == 2
