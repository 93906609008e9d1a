"""Building CPUs, and the one reader of the kernel switch."""

from errno import EINVAL

import pytest

from netstack import NetstackError
from netstack._fast.intr import IntrController
from netstack._fast.mbuf import MbufPool
from netstack.machine.cpu import build_cpus, is_giant_locked


def test_cpus_share_what_they_should() -> None:
    pool = MbufPool(64, 4)
    controller = IntrController(4)
    parts = build_cpus(4, pool, "GENERIC", controller)
    assert [cpu.index for cpu in parts.cpus] == [0, 1, 2, 3]
    assert parts.controller is controller
    for cpu in parts.cpus:
        assert cpu.block.controller is controller
        assert cpu.block.softints is parts.softints and cpu.block.psz is parts.psz
        assert (cpu.spl, cpu.context, cpu.handler) == (0, None, "")


def test_only_generic_has_a_giant_lock() -> None:
    assert build_cpus(1, MbufPool(64, 1), "GENERIC").giant is not None
    assert build_cpus(1, MbufPool(64, 1), "NET_MPSAFE").giant is None
    assert is_giant_locked("GENERIC") and not is_giant_locked("NET_MPSAFE")


@pytest.mark.parametrize(("ncpu", "kernel"), [(0, "GENERIC"), (65, "GENERIC"), (1, "generic")])
def test_nonsense_is_refused(ncpu: int, kernel: str) -> None:
    with pytest.raises(NetstackError) as caught:
        build_cpus(ncpu, MbufPool(64, 1), kernel)
    assert caught.value.errno == EINVAL
