"""Interrupt sources: what a mask holds back comes later, once, and is never lost (paper §4.1, §5)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netstack._fast.cpu import CpuBlock, SoftintTable
from netstack._fast.intr import IntrController, IntrSource
from netstack._fast.mbuf import MbufPool
from netstack._fast.pserialize import PSerialize


class Wiring:
    """Two CPUs and one source, routed to slot 5 of CPU 1."""

    def __init__(self) -> None:
        self.controller = IntrController(2)
        pool, table, psz = MbufPool(16, 2), SoftintTable(), PSerialize(2)
        self.cpus = [CpuBlock(i, self.controller, pool, table, psz) for i in range(2)]
        self.source = IntrSource(self.controller)
        self.source.route(1, 5)

    def taken(self) -> list[tuple[int, int]]:
        """Take all pending slots: (CPU, slot)."""
        out = []
        for cpu in self.cpus:
            while (slot := cpu.intr_next()) >= 0:
                out.append((cpu.index, slot))
        return out


@pytest.mark.parametrize("ncpu", [0, 65])
def test_controllers_have_1_to_64_cpus(ncpu: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.64"):
        IntrController(ncpu)


def test_no_such_cpu_or_slot() -> None:
    controller = IntrController(2)
    source = IntrSource(controller)
    for call in (
        lambda: controller.post(2, 0),
        lambda: controller.wake(-1),
        lambda: controller.set_eventfd(2, 1),
        lambda: controller.clear_pending_hint(2),
        lambda: source.route(2, 0),
    ):
        with pytest.raises(IndexError, match="no CPU"):
            call()
    for call in (lambda: controller.post(0, 256), lambda: source.route(0, -1)):
        with pytest.raises(IndexError, match="no interrupt slot"):
            call()


def test_at_reset_the_vector_is_masked_and_the_device_disabled() -> None:
    source = IntrSource(IntrController(1))
    assert (source.masked, source.enabled) == (True, False)
    assert (source.pending, source.cause, source.raised) == (False, False, 0)


def test_an_enabled_source_sends_and_disables_itself() -> None:
    w = Wiring()
    w.source.unmask()
    w.source.enable()
    w.source.raise_()
    assert w.taken() == [(1, 5)]
    assert (w.source.enabled, w.source.cause, w.source.raised) == (False, False, 1)
    w.source.raise_()  # before the driver enables: remembered, once
    w.source.raise_()
    assert w.taken() == []
    assert w.source.cause
    w.source.enable()
    assert w.taken() == [(1, 5)]
    assert not w.source.enabled
    w.source.enable()
    assert w.taken() == []
    assert w.source.enabled


def test_a_masked_vector_keeps_the_message_in_its_pending_bit() -> None:
    w = Wiring()
    w.source.enable()
    w.source.raise_()
    assert w.taken() == []
    assert w.source.pending
    w.source.route(0, 9)
    w.source.unmask()
    assert w.taken() == [(0, 9)]
    assert (w.source.pending, w.source.raised) == (False, 1)
    w.source.unmask()
    assert w.taken() == []


def test_disable_holds_causes_back() -> None:
    w = Wiring()
    w.source.unmask()
    w.source.enable()
    w.source.disable()
    w.source.raise_()
    assert w.taken() == []
    w.source.enable()
    assert w.taken() == [(1, 5)]


def test_slots_of_a_cpu_are_bits_taken_lowest_first() -> None:
    w = Wiring()
    for slot in (255, 64, 63, 0, 128, 64):
        w.controller.post(0, slot)
    assert w.cpus[0].intr_peek() == [0, 63, 64, 128, 255]
    assert not w.cpus[1].intr_pending
    assert w.controller.cpus_pending == 1
    w.controller.clear_pending_hint(0)
    assert w.controller.cpus_pending == 0
    assert w.cpus[0].intr_clear(64)
    assert not w.cpus[0].intr_clear(64)
    assert w.taken() == [(0, 0), (0, 63), (0, 128), (0, 255)]


OPERATIONS = st.lists(
    st.sampled_from(["raise_", "enable", "disable", "mask", "unmask", "route", "take"])
)


@given(operations=OPERATIONS)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_whatever_the_order_a_cause_arrives_where_it_is_routed(operations: list[str]) -> None:
    w = Wiring()
    enabled = cause = pending = False
    masked = True
    where = (1, 5)
    arrived: set[tuple[int, int]] = set()

    def send() -> None:
        nonlocal pending
        if masked:
            pending = True
        else:
            arrived.add(where)

    for operation in operations:
        if operation == "route":
            where = (1 - where[0], where[1] + 1)
            w.source.route(*where)
        elif operation == "take":
            assert set(w.taken()) == arrived
            arrived = set()
        else:
            getattr(w.source, operation)()
        if operation in ("raise_", "enable"):
            cause = cause or operation == "raise_"
            enabled = enabled or operation == "enable"
            if cause and enabled:
                cause = enabled = False
                send()
        elif operation == "disable":
            enabled = False
        elif operation == "mask":
            masked = True
        elif operation == "unmask":
            masked = False
            if pending:
                pending = False
                send()
        state = (w.source.enabled, w.source.cause, w.source.masked, w.source.pending)
        assert state == (enabled, cause, masked, pending)
    w.source.unmask()
    w.source.raise_()
    w.source.enable()
    arrived.add(where)
    assert set(w.taken()) == arrived
