"""Read sections and grace periods of the compiled object, one strategy at a time (paper §3.1.3)."""

from errno import ETIMEDOUT

import pytest

from netstack._fast.pserialize import STRATEGIES, PSerialize, membarrier_available

NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "membarrier" and not membarrier_available(), reason="no membarrier(2) here"
        ),
    )
    for name in STRATEGIES
]


def leave(psz: PSerialize, cpu: int) -> None:
    """Close the section of a CPU and pass the switch points a handler passes after it."""
    psz.read_exit(cpu)
    psz.switchpoint(cpu)
    psz.switchpoint(cpu)


def rest(psz: PSerialize, *cpus: int) -> None:
    for cpu in cpus:
        psz.idle(cpu, True)


def test_there_are_the_three_strategies_of_the_design() -> None:
    assert set(STRATEGIES) == {"seqcst", "membarrier", "switch"}
    assert PSerialize(1).strategy == ("membarrier" if membarrier_available() else "seqcst")


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'rcu'"):
        PSerialize(1, "rcu")
    for ncpu in (0, 66):
        with pytest.raises(ValueError, match="ncpu"):
            PSerialize(ncpu)
    psz = PSerialize(2)
    for call in (psz.read_enter, psz.read_exit, psz.switchpoint, psz.in_section):
        for cpu in (-1, 2):
            with pytest.raises(IndexError, match="no CPU"):
                call(cpu)


@pytest.mark.parametrize("strategy", NAMES)
def test_without_readers_nobody_waits(strategy: str) -> None:
    psz = PSerialize(64, strategy)
    rest(psz, *range(64))
    psz.perform()
    assert psz.performs == 1
    assert psz.waiting_for() == []


@pytest.mark.parametrize("strategy", NAMES)
def test_the_writer_waits_for_sections_that_were_open_and_for_no_others(strategy: str) -> None:
    psz = PSerialize(4, strategy)
    rest(psz, 0, 2, 3)
    psz.read_enter(1)
    assert psz.in_section(1)
    psz.perform_begin()
    assert psz.perform_poll() == 1
    assert psz.waiting_for() == [1]
    if strategy != "switch":
        psz.read_enter(2)  # came later: it cannot have seen the old state
        assert psz.perform_poll() == 1
        psz.read_exit(2)
    leave(psz, 1)
    assert not psz.in_section(1)
    assert psz.perform_poll() == 0
    assert (psz.waiting_for(), psz.performs) == ([], 1)


@pytest.mark.parametrize("strategy", [n for n in NAMES if "switch" not in n.values])
def test_a_section_that_opens_again_at_once_does_not_stall(strategy: str) -> None:
    psz = PSerialize(1, strategy)
    psz.read_enter(0)
    psz.perform_begin()
    psz.read_exit(0)
    psz.read_enter(0)
    assert psz.perform_poll() == 0
    psz.read_exit(0)


def test_the_papers_strategy_wants_two_switch_points_of_every_busy_cpu() -> None:
    psz = PSerialize(3, "switch")
    rest(psz, 2)
    psz.switchpoint(0)  # before: does not count
    psz.perform_begin()
    assert psz.perform_poll() == 2
    psz.switchpoint(0)
    psz.switchpoint(1)
    assert psz.perform_poll() == 2
    psz.switchpoint(0)
    assert psz.perform_poll() == 1
    assert psz.waiting_for() == [1]
    psz.idle(1, True)  # an idle CPU is in no section
    assert psz.perform_poll() == 0


@pytest.mark.parametrize("strategy", NAMES)
def test_perform_lets_others_work_until_the_reader_leaves(strategy: str) -> None:
    psz = PSerialize(2, strategy)
    rest(psz, 1)
    psz.read_enter(0)
    calls = 0

    def others() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            leave(psz, 0)

    psz.perform(others)
    assert (calls, psz.performs) == (3, 1)


@pytest.mark.parametrize("strategy", NAMES)
def test_a_reader_that_never_leaves_is_named(strategy: str) -> None:
    psz = PSerialize(2, strategy)
    rest(psz, 0)
    psz.read_enter(1)
    with pytest.raises(OSError, match=r"CPU \[1\]") as caught:
        psz.perform(timeout_s=0.01)
    assert caught.value.errno == ETIMEDOUT
    leave(psz, 1)
    rest(psz, 1)
    psz.perform()
    assert psz.performs == 1


@pytest.mark.parametrize("strategy", NAMES)
def test_every_cpu_it_accepts_is_waited_for(strategy: str) -> None:
    for ncpu in (1, 63, 64, 65):
        psz = PSerialize(ncpu, strategy)
        rest(psz, *range(ncpu - 1))
        last = ncpu - 1
        psz.read_enter(last)
        psz.perform_begin()
        assert psz.waiting_for() == ([last] if strategy != "switch" else list(range(ncpu)))
        assert psz.perform_poll() == 1
        leave(psz, last)
        assert psz.perform_poll() == 0
