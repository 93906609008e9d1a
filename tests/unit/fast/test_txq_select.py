"""Which TX queue a CPU uses (paper §5.4, §6.1)."""

import pytest

from netstack._fast.txq_select import txq_select


def test_the_papers_list() -> None:
    assert txq_select(8, 4)[:8] == [0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("ncpu", [1, 2, 7, 64])
@pytest.mark.parametrize("ntxq", [1, 3, 8, 64])
def test_every_cpu_has_a_queue_and_so_have_control_threads(ncpu: int, ntxq: int) -> None:
    table = txq_select(ncpu, ntxq)
    assert len(table) == ncpu + 1
    assert set(table) <= set(range(ntxq))
    assert len(set(table[:ncpu])) == min(ncpu, ntxq), "queues are shared before all are used"


def test_affinity_comes_before_the_round() -> None:
    assert txq_select(4, 4, {0: 3, 2: 0})[:4] == [3, 1, 0, 3]


@pytest.mark.parametrize(("ncpu", "ntxq"), [(0, 1), (65, 1), (1, 0), (1, 65)])
def test_sizes_out_of_range_are_refused(ncpu: int, ntxq: int) -> None:
    with pytest.raises(ValueError, match="no TX queue selection"):
        txq_select(ncpu, ntxq)


@pytest.mark.parametrize("affinity", [{4: 0}, {-1: 0}, {0: 4}, {0: -1}])
def test_affinity_names_what_exists(affinity: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot use TX queue"):
        txq_select(4, 4, affinity)
