"""Interrupts: binding, distribution, counts, shields (paper §2.3.1, §4.2)."""

from errno import EBUSY, EDEADLK, EEXIST, EINVAL, ENOENT

import pytest
from sim.rig import Device, make

from netstack import NetstackError
from netstack._fast.intr import IntrSource
from netstack.kern.intr import IntrRegistry
from netstack.kern.spl import IPL
from netstack.machine.virtual import VirtualEngine


def registry(engine: VirtualEngine) -> IntrRegistry:
    assert isinstance(engine.intrs, IntrRegistry)
    return engine.intrs


def counts(engine: VirtualEngine, name: str) -> tuple[int, ...]:
    (row,) = [row for row in engine.intrs.list() if row.name == name]
    return row.counts


def test_everything_goes_to_cpu_0_by_default() -> None:
    engine = make(4)
    source = IntrSource(engine.controller)
    ih = engine.intrs.establish(source, IPL.VM, lambda _: None, name="wm0 RX0")
    assert (ih.cpu, source.cpu, source.slot) == (0, 0, ih.slot)
    assert not source.masked


def test_a_row_says_all_that_intrctl_prints() -> None:
    engine = make(2)
    source = IntrSource(engine.controller)
    engine.intrs.establish(
        source, IPL.VM, lambda _: None, name="wm0 RX1", intrid="msix0 vec 3", cpu=1
    )
    (row,) = engine.intrs.list()
    assert row == ("wm0 RX1", "msix0 vec 3", (0, 0), (1,), "wm0")
    assert engine.intrs.find("wm0 RX1") is engine.intrs.find("msix0 vec 3")


def test_a_move_keeps_the_counts_of_every_cpu() -> None:
    engine = make(3)
    device = Device(engine, "dev")
    for cpu, times in ((0, 3), (2, 4), (0, 2), (1, 1)):
        if device.ih.cpu != cpu:
            assert engine.intrs.distribute(device.ih, cpu) == (device.log[-1][1],)
        for _ in range(times):
            device.fire()
            engine.run()
    assert counts(engine, "dev") == (5, 1, 4)
    assert [cpu for _, cpu in device.log] == [0] * 3 + [2] * 4 + [0] * 2 + [1]


def test_a_move_to_where_it_is_does_nothing() -> None:
    engine = make(2)
    device = Device(engine, "dev", cpu=1)
    slot = device.ih.slot
    assert engine.intrs.distribute(device.ih, {1}) == (1,)
    assert device.ih.slot == slot


def test_the_lowest_cpu_of_a_set_is_chosen() -> None:
    engine = make(4)
    device = Device(engine, "dev")
    engine.intrs.distribute(device.ih, {3, 2})
    assert device.ih.cpu == 2


def test_a_move_waits_for_what_is_pending_and_for_the_handler() -> None:
    engine = make(2)
    device = Device(engine, "dev", work=5000)
    device.fire_at(0)
    device.fire_at(3000)  # waits at the device while the handler runs
    engine.run(seconds=1e-6)
    assert device.ih.active == 1
    engine.intrs.distribute(device.ih, 1)
    assert device.ih.active == 0 and engine.now_ns() >= 5100
    engine.run()
    assert [cpu for _, cpu in device.log] == [0, 1] and counts(engine, "dev") == (1, 1)


def test_errors_name_the_cure() -> None:
    engine = make(2)
    device = Device(engine, "dev")
    for cpus, errno in (((), EINVAL), ({2}, EINVAL), (-1, EINVAL)):
        with pytest.raises(NetstackError) as caught:
            engine.intrs.distribute(device.ih, cpus)
        assert caught.value.errno == errno and device.ih.cpu == 0
    with pytest.raises(NetstackError) as caught:
        engine.intrs.find("wm9 RX0")
    assert caught.value.errno == ENOENT
    with pytest.raises(NetstackError) as caught:
        Device(engine, "dev")
    assert caught.value.errno == EEXIST
    with pytest.raises(NetstackError) as caught:
        Device(engine, "other", ipl=IPL.SOFTNET)
    assert caught.value.errno == EINVAL
    with pytest.raises(NetstackError) as caught:
        Device(engine, "other", cpu=2)
    assert caught.value.errno == EINVAL


def test_slots_run_out() -> None:
    engine = make(2)
    for index in range(256):
        Device(engine, f"dev{index}")
    with pytest.raises(NetstackError) as caught:
        Device(engine, "one more")
    assert caught.value.errno == EBUSY
    moved = Device(engine, "one more", cpu=1)
    with pytest.raises(NetstackError) as caught:
        engine.intrs.distribute(moved.ih, 0)
    assert caught.value.errno == EBUSY
    moved.fire()
    engine.run()
    assert len(moved.log) == 1


def test_nointr_moves_away_what_a_cpu_has_and_intr_moves_nothing_back() -> None:
    engine = make(3)
    devices = [Device(engine, f"dev{n}", cpu=cpu) for n, cpu in enumerate((0, 1, 1, 2))]
    engine.intrs.set_intr(1, False)
    assert [device.ih.cpu for device in devices] == [0, 0, 0, 2]
    assert not registry(engine).is_intr(1)
    with pytest.raises(NetstackError) as caught:
        engine.intrs.distribute(devices[0].ih, 1)
    assert caught.value.errno == EINVAL
    assert Device(engine, "late", cpu=1).ih.cpu == 0
    engine.intrs.set_intr(1, True)
    assert [device.ih.cpu for device in devices] == [0, 0, 0, 2]
    engine.intrs.distribute(devices[1].ih, 1)


def test_the_last_cpu_keeps_its_interrupts_and_the_shield_stays() -> None:
    engine = make(1)
    device = Device(engine, "dev")
    with pytest.raises(NetstackError) as caught:
        engine.intrs.set_intr(0, False)
    assert caught.value.errno == ENOENT
    assert device.ih.cpu == 0 and not registry(engine).is_intr(0)


def test_disestablish_waits_and_nothing_comes_after() -> None:
    engine = make()
    device = Device(engine, "dev", work=5000)
    device.fire_at(0)
    engine.run(seconds=1e-6)
    engine.intrs.disestablish(device.ih)
    assert len(device.log) == 1 and device.ih.active == 0
    device.fire()
    engine.run()
    assert len(device.log) == 1 and not engine.intrs.list()
    with pytest.raises(NetstackError) as caught:
        engine.intrs.disestablish(device.ih)
    assert caught.value.errno == ENOENT


def test_an_interrupt_handler_may_not_distribute() -> None:
    engine = make(2)
    device = Device(engine, "dev")
    device.then = lambda: engine.intrs.distribute(device.ih, 1)
    device.fire_at(0)
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


def test_a_stray_interrupt_is_counted() -> None:
    engine = make()
    engine.controller.post(0, 77)
    engine.run()
    assert registry(engine).stray == 1


def test_interrupts_of_one_level_take_turns() -> None:
    engine = make()
    order: list[str] = []
    devices = []
    for name in "abc":
        device = Device(engine, name, work=1000)
        device.then = lambda name=name: order.append(name)
        devices.append(device)
    for when_ns in range(0, 6000, 100):
        for device in devices:
            device.fire_at(when_ns)
    engine.run(seconds=7e-6)
    assert "".join(order).startswith("abcabc")
