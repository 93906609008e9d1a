"""Where interrupts go: the paper's Table 2 and its extension to other core counts."""

import pytest

from netstack.params import WM_QUEUES_MAX
from netstack.rfc2544.rig import CORES_MAX, TABLE_2, TABLE_3_KFPS, Setup, paper_rule, place
from netstack.rfc2544.traffic import PAPER_SIZES


def setup(clock="virtual", kernel="NET_MPSAFE", cores=4):
    return Setup(clock, kernel, cores, "classic", "one", 1, 10)


@pytest.mark.parametrize("cores", TABLE_2)
def test_rule_gives_table_2(cores):
    assert paper_rule(cores) == TABLE_2[cores]


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("cores", range(1, CORES_MAX + 1))
def test_every_core_count_uses_that_many_cores(clock, cores):
    placement = place(setup(clock, cores=cores))
    used = {cpu for cpus in placement.rx.values() for cpu in cpus}
    assert len(used) == cores
    assert max(used) < placement.ncpu <= CORES_MAX
    assert all(len(cpus) <= WM_QUEUES_MAX for cpus in placement.rx.values())


@pytest.mark.parametrize("cores", [1, 2, 4, 8, 16])
def test_frames_stay_on_their_cpu(cores):
    placement = place(setup(cores=cores))
    assert set(placement.tx["wm2"]) == set(placement.rx["wm0"])
    assert set(placement.tx["wm0"]) == set(placement.rx["wm2"])


def test_generic_has_one_interrupt_a_port():
    placement = place(setup(kernel="GENERIC", cores=1))
    assert placement.ncpu == 8 and placement.rx == {"wm0": (0,), "wm2": (0,)}
    placement = place(setup("wall", "GENERIC", 2))
    assert placement.ncpu == 2 and placement.rx == {"wm0": (0,), "wm1": (1,)}


def test_wall_rig_has_a_queue_for_each_core():
    placement = place(setup("wall", cores=3))
    assert placement.rx == placement.tx == {"wm0": (0, 1, 2), "wm1": (0, 1, 2)}


def test_table_3_has_the_papers_sizes():
    assert tuple(TABLE_3_KFPS) == PAPER_SIZES
