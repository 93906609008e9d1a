"""A CPU as the kernels see it: softint handles and FIFOs, interrupt slots, the punt ring (paper §2.1, §3.3)."""

from itertools import pairwise

import pytest
from frames import frame, serial_of, station
from unit.fast.rig import Rig, own_mac

from netstack._fast import kernels
from netstack._fast.cpu import IFNET_MAX, LEVELS, SLOTS, SOFT_KIND, VEC_KIND, CpuBlock, SoftintTable
from netstack._fast.ifnet import FLAG_LISTEN
from netstack._fast.intr import IntrController
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.pserialize import PSerialize

PUNT_SLOTS = 4096
NET = LEVELS.index("net")


def block(index: int = 0, ncpu: int = 1) -> tuple[CpuBlock, SoftintTable]:
    table = SoftintTable()
    parts = IntrController(ncpu), MbufPool(16, ncpu), table, PSerialize(ncpu)
    return CpuBlock(index, *parts), table


def pending(cpu: CpuBlock, level: int) -> list[int]:
    """Take all handles of a level."""
    out = []
    while (handle := cpu.softint_next(level)) >= 0:
        out.append(handle)
    return out


# Handles.


def test_handles_are_1_to_255_and_come_back() -> None:
    table = SoftintTable()
    handles = [table.add(level % 4, True, "python") for level in range(255)]
    assert sorted(handles) == list(range(1, 256))
    with pytest.raises(OverflowError, match="255"):
        table.add(0, True, "python")
    table.remove(77)
    assert table.add(3, False, "python") == 77
    assert table.level(77) == 3
    with pytest.raises(OverflowError):
        table.add(0, True, "python")


def test_wrong_levels_kinds_and_handles_are_refused() -> None:
    table = SoftintTable()
    for level in (-1, 4):
        with pytest.raises(ValueError, match=r"0\.\.3"):
            table.add(level, True, "python")
    handle = table.add(0, True, "python")
    with pytest.raises(KeyError):
        table.rebind(handle, "no such kind")
    for bad in (0, handle + 1, -1, 256):
        with pytest.raises(IndexError, match="no softint handle"):
            table.level(bad)
    assert table.checked(handle) == handle
    assert set(SOFT_KIND) == {"python", "rx", "bridge", "tx"}


def test_a_kind_that_does_not_exist_costs_no_handle() -> None:
    table = SoftintTable()
    with pytest.raises(ValueError, match="no softint kind"):
        table.add(0, True, "no such kind")
    assert len({table.add(0, True, "python") for _ in range(255)}) == 255


def test_a_block_needs_an_interrupt_controller_entry_and_a_magazine() -> None:
    pool, table, psz = MbufPool(16, 2), SoftintTable(), PSerialize(4)
    for index, controller in ((-1, 4), (4, 4), (2, 4), (1, 1)):
        with pytest.raises(ValueError, match="no interrupt controller entry or no magazine"):
            CpuBlock(index, IntrController(controller), pool, table, psz)


# Softints.


def test_a_pending_softint_is_queued_once_and_a_level_is_a_fifo() -> None:
    cpu, table = block()
    handles = [table.add(NET, True, "python") for _ in range(5)]
    for i in (3, 1, 3, 4, 1, 0):
        cpu.softint_schedule(handles[i])
    assert cpu.softint_is_pending(NET)
    assert pending(cpu, NET) == [handles[i] for i in (3, 1, 4, 0)]
    assert not cpu.softint_is_pending(NET)
    cpu.softint_schedule(handles[3])
    assert pending(cpu, NET) == [handles[3]]


def test_levels_do_not_mix() -> None:
    cpu, table = block()
    handles = [table.add(level, True, "python") for level in (3, 0, 2, 1)]
    for handle in handles:
        cpu.softint_schedule(handle)
    assert [pending(cpu, level) for level in range(4)] == [[handles[i]] for i in (1, 3, 2, 0)]
    for bad in (-1, 4):
        for call in (cpu.softint_next, cpu.softint_is_pending):
            with pytest.raises(IndexError, match="no softint level"):
                call(bad)


def test_a_fifo_goes_round_with_all_handles_in_it() -> None:
    cpu, table = block()
    handles = [table.add(0, True, "python") for _ in range(255)]
    for _ in range(3):
        for handle in handles:
            cpu.softint_schedule(handle)
        assert pending(cpu, 0) == handles


def test_other_cpus_ask_through_the_remote_word() -> None:
    cpu, table = block()
    handles = [table.add(NET, True, "python") for _ in range(200)]
    for i in (199, 5, 64, 5):
        cpu.softint_post_remote(handles[i])
    assert not cpu.softint_is_pending(NET)
    assert cpu.controller.cpus_pending == 1
    cpu.softint_schedule(handles[64])
    assert cpu.softint_take_remote() == 3
    assert cpu.softint_take_remote() == 0
    assert pending(cpu, NET) == [handles[i] for i in (64, 5, 199)]
    for call in (cpu.softint_schedule, cpu.softint_post_remote):
        with pytest.raises(IndexError, match="no softint handle"):
            call(201)


# Interrupt slots.


def test_slots_are_bound_counted_and_freed() -> None:
    cpu, _ = block()
    cpu.bind(SLOTS - 1, "python")
    cpu.count_one(SLOTS - 1)
    cpu.count_one(SLOTS - 1)
    assert cpu.count(SLOTS - 1) == 2
    assert cpu.counters["hardints"] == 2
    cpu.set_count(SLOTS - 1, 40)
    assert cpu.count(SLOTS - 1) == 40
    cpu.unbind(SLOTS - 1)
    with pytest.raises(KeyError):
        cpu.bind(0, "no such kind")
    assert set(VEC_KIND) == {"python", "softdrv", "classic"}
    for bad in (-1, SLOTS):
        for call in (cpu.count, cpu.count_one, cpu.intr_clear, cpu.unbind):
            with pytest.raises(IndexError, match="no interrupt slot"):
                call(bad)


def test_the_interface_table_has_an_end() -> None:
    cpu, _ = block()
    for bad in (-1, IFNET_MAX):
        with pytest.raises(IndexError, match="no interface slot"):
            cpu.set_ifnet(bad, None)


def test_seconds_follow_nanoseconds() -> None:
    rig = Rig(2)
    rig.cpu.now_ns = 7_999_999_999
    rig.bridge([frame(station(2), station(1))])
    assert rig.table.lookup(station(1)) == (0, 1 + 7)


# The punt ring.


def listening(count: int = 2) -> Rig:
    rig = Rig(count, nmbufs=8192, slots=8)
    for nic in rig.nics:
        nic.ifp.flags |= FLAG_LISTEN
    return rig


def punt(rig: Rig, owner: int, *serials: int) -> None:
    """Receive frames for the address of an interface: they go up by the punt ring."""
    for at in range(0, len(serials), 256):
        part = serials[at : at + 256]
        rig.bridge([frame(own_mac(owner + 1), station(9), serial) for serial in part])


def taken(rig: Rig) -> list[tuple[str, int, list[int]]]:
    """Take everything: (kind, interface, serials) per vector."""
    out = []
    while True:
        mv = MbufVec(rig.pool, 0)
        kind = rig.cpu.punt_take(mv)
        if not kind:
            assert len(mv) == 0
            return out
        out.append((kind, mv.rcvif, [serial_of(each) for each in mv.frames()]))


def test_punted_frames_come_in_runs_of_one_interface_in_order() -> None:
    rig = listening()
    punt(rig, 0, 1, 2)
    punt(rig, 1, 3)
    punt(rig, 0, 4)
    assert rig.cpu.punt_len == 4
    assert taken(rig) == [("local", 1, [1, 2]), ("local", 2, [3]), ("local", 1, [4])]
    assert (rig.cpu.punt_len, rig.in_use) == (0, 0)


def test_the_first_punted_frame_schedules_the_softint() -> None:
    rig = listening()
    handle = rig.softints.add(NET, True, "python")
    punt(rig, 0, 1)
    assert not rig.cpu.softint_is_pending(NET)
    rig.cpu.punt_softint = handle
    punt(rig, 0, 2, 3)
    assert pending(rig.cpu, NET) == [handle]
    taken(rig)


def test_a_full_punt_ring_drops_by_name_and_keeps_the_oldest() -> None:
    rig = listening()
    punt(rig, 0, *range(PUNT_SLOTS + 10))
    assert rig.cpu.punt_len == PUNT_SLOTS
    assert rig.nics[0].ifp.drops() == {"punt_full": 10}
    got = [serial for _, _, serials in taken(rig) for serial in serials]
    assert got == list(range(PUNT_SLOTS))
    assert rig.in_use == 0


def test_the_ring_goes_round() -> None:
    rig = listening()
    for lap in range(5):
        punt(rig, 0, *range(1000 * lap, 1000 * lap + 1000))
        got = [serial for _, _, serials in taken(rig) for serial in serials]
        assert (got[0], len(got)) == (1000 * lap, 1000)
        assert all(a < b for a, b in pairwise(got))


def test_a_vector_in_use_is_refused() -> None:
    rig = listening()
    punt(rig, 0, 1)
    mv = rig.vector([frame(station(1), station(2))])
    with pytest.raises(ValueError, match="not empty"):
        rig.cpu.punt_take(mv)
    assert rig.cpu.punt_len == 1


def test_frames_held_by_a_dead_cpu_go_back_to_the_pool() -> None:
    rig = listening()
    pool = rig.pool
    punt(rig, 0, 1, 2, 3)
    kernels.fwdq_put(rig.cpu, rig.nics[0].ifp, rig.vector([frame(station(1), station(2))]))
    assert rig.in_use == 4
    del rig.cpu, rig.cpus
    assert rig.in_use == 0
    assert pool.free_count == pool.nmbufs - sum(nic.rxq.held for nic in rig.nics)
