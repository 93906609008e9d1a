"""Appendix A of the paper, call by call, and the one-call form (NetBSD pci_msi(9), pci_intr(9))."""

from collections.abc import Iterator
from errno import EBUSY, EINVAL, ENODEV, ENOMEM, ENOTSUP
from typing import Any

import pytest

from netstack import Machine, NetstackError
from netstack._fast.intr import IntrSource
from netstack.dev.pci import PciAttachArgs
from netstack.dev.pci_chipset import PciChipset
from netstack.dev.pci_handle import PciIntrHandle
from netstack.dev.pci_intr import (
    TYPES,
    pci_intr_alloc,
    pci_intr_disestablish,
    pci_intr_establish_xname,
    pci_intr_map,
    pci_intr_next_type,
    pci_intr_release,
    pci_intr_setattr,
    pci_intr_string,
    pci_intr_type,
)
from netstack.dev.pci_msi import (
    pci_msi_alloc,
    pci_msi_alloc_exact,
    pci_msi_count,
    pci_msi_disestablish,
    pci_msi_establish,
    pci_msi_establish_xname,
    pci_msi_release,
)
from netstack.dev.pci_msix import (
    MsixEntry,
    pci_msix_alloc,
    pci_msix_alloc_exact,
    pci_msix_count,
    pci_msix_disestablish,
    pci_msix_establish,
    pci_msix_establish_xname,
    pci_msix_release,
)
from netstack.hw.intx import IntxFunction
from netstack.hw.msi import MsiCapability
from netstack.hw.msix import MsixCapability, MsixTable
from netstack.hw.pci import PciFunction
from netstack.hw.pci_regs import COMMAND_INTX_DISABLE
from netstack.kern.spl import IPL


class Card:
    """A device with ``messages`` MSI messages and a table of ``entries``; its driver is the test."""

    def __init__(
        self,
        m: Machine,
        messages: int = 4,
        entries: int = 5,
        pin: int = 1,
        ident: tuple[int, int] = (0x1234, 1),
        **chipset: Any,
    ) -> None:
        self.m = m
        self.function = PciFunction(*ident, 0x020000, pin=pin)
        controller = m.engine.controller
        self.causes = [IntrSource(controller) for _ in range(max(messages, 1))]
        self.table = MsixTable(controller, entries or 1)
        self.is_up = False
        self.msi: Any = None
        self.msix: Any = None
        if messages:
            self.msi = MsiCapability(controller, self.causes, messages)
            self.function.add_capability(self.msi)
        if entries:
            self.msix = MsixCapability(self.table, 3)
            self.function.add_region(3, self.msix.region)
            self.function.add_capability(self.msix)
        intx = IntxFunction(self.causes, lambda: not self.uses_messages, lambda: self.is_up)
        place = m.pci.plug(self.function, intx)
        self.chipset = PciChipset(m.engine, **chipset)
        number = 0 if intx.line is None else intx.line.number
        self.pa = PciAttachArgs(m.pci.bus, place, self.chipset, intx.line, number, pin)
        self.calls: list[Any] = []

    @property
    def uses_messages(self) -> bool:
        return any(each.is_enabled for each in (self.msi, self.msix) if each is not None)

    def handler(self, arg: Any) -> None:
        cpu = self.m.engine.curcpu()
        assert cpu is not None
        self.calls.append((arg, cpu.index))

    def fire(self, source: IntrSource) -> None:
        source.enable()
        source.raise_()
        self.m.run()


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(ncpu=4) as machine:
        yield machine


def refused(errno: int, fn: Any, *args: Any) -> str:
    with pytest.raises(NetstackError) as refusal:
        fn(*args)
    assert refusal.value.errno == errno, refusal.value
    return str(refusal.value)


def entries(*indices: int) -> list[MsixEntry]:
    return [MsixEntry(index) for index in indices]


def handles(wanted: list[MsixEntry]) -> list[PciIntrHandle]:
    return [entry.me_handle for entry in wanted if entry.me_handle is not None]


# Counting.


@pytest.mark.parametrize("messages", [1, 2, 32])
def test_counts(m: Machine, messages: int) -> None:
    card = Card(m, messages=messages, entries=25)
    assert (pci_msi_count(card.pa), pci_msix_count(card.pa)) == (messages, 25)


def test_no_capability_counts_nothing_and_allocates_nothing(m: Machine) -> None:
    card = Card(m, messages=0, entries=0)
    assert (pci_msi_count(card.pa), pci_msix_count(card.pa)) == (0, 0)
    assert "no MSI capability" in refused(ENODEV, pci_msi_alloc, card.pa, 1)
    assert "no MSI-X capability" in refused(ENODEV, pci_msix_alloc, card.pa, entries(0))


# MSI.


def test_alloc_cuts_down_to_what_the_device_offers(m: Machine) -> None:
    card = Card(m, messages=4)
    got = pci_msi_alloc(card.pa, 16)
    assert [pci_intr_string(ih) for ih in got] == [f"msi0 vec {i}" for i in range(4)]
    pci_msi_release(got)
    assert got == []


def test_alloc_exact_does_not(m: Machine) -> None:
    card = Card(m, messages=4)
    assert "offers 4" in refused(EINVAL, pci_msi_alloc_exact, card.pa, 8)
    assert len(pci_msi_alloc_exact(card.pa, 2)) == 2


@pytest.mark.parametrize("count", [0, 3, -1, 6])
def test_msi_comes_in_powers_of_two(m: Machine, count: int) -> None:
    card = Card(m)
    for call in (pci_msi_alloc, pci_msi_alloc_exact):
        assert "powers of two" in refused(EINVAL, call, card.pa, count)


def test_a_shortage_halves_msi_and_decrements_msix(m: Machine) -> None:
    card = Card(m, messages=8, entries=8, vectors=5)
    got = pci_msi_alloc(card.pa, 8)
    assert len(got) == 4 and card.chipset.vectors_free == 1
    refused(ENOMEM, pci_msi_alloc_exact, card.pa, 2)
    pci_msi_release(got)
    wanted = entries(*range(8))
    assert pci_msix_alloc(card.pa, wanted) == 5
    assert [entry.me_handle is not None for entry in wanted] == [True] * 5 + [False] * 3
    refused(ENOMEM, pci_msix_alloc, card.pa, entries(7))
    refused(ENOMEM, pci_msi_alloc, card.pa, 1)
    pci_msix_release(handles(wanted))
    assert card.chipset.vectors_free == 5


def test_msi_messages_reach_their_handlers(m: Machine) -> None:
    card = Card(m, messages=4)
    got = pci_msi_alloc(card.pa, 4)
    cookies = [pci_msi_establish(card.chipset, got[0], IPL.VM, card.handler, "zero")]
    cookies += [
        pci_msi_establish_xname(card.chipset, ih, IPL.VM, card.handler, i, f"dev0 q{i}")
        for i, ih in enumerate(got[1:], 1)
    ]
    assert card.function.command & COMMAND_INTX_DISABLE, "a device signals by one way at a time"
    for source in card.causes:
        card.fire(source)
    assert card.calls == [("zero", 0), (1, 0), (2, 0), (3, 0)]
    slots = [ih.slot for ih in cookies]
    assert slots == list(range(slots[0], slots[0] + 4)) and slots[0] % 4 == 0
    assert [row.name for row in m.intrctl.list()] == ["msi0 vec 0", "dev0 q1", "dev0 q2", "dev0 q3"]
    assert "move together" in refused(ENOTSUP, m.intrctl.affinity, "dev0 q1", 2)
    assert "disestablish" in refused(EINVAL, pci_msi_release, got)
    for cookie in cookies:
        pci_msi_disestablish(card.chipset, cookie)
    pci_msi_release(got)
    assert not card.msi.is_enabled and m.intrctl.list() == []


def test_one_message_moves(m: Machine) -> None:
    card = Card(m, messages=1)
    (ih,) = pci_msi_alloc(card.pa, 1)
    pci_msi_establish_xname(card.chipset, ih, IPL.VM, card.handler, None, "dev0")
    m.intrctl.affinity("dev0", 3)
    card.fire(card.causes[0])
    assert card.calls == [(None, 3)]


def test_slots_of_msi_stay_reserved_until_release(m: Machine) -> None:
    card, other = Card(m, messages=4), Card(m, entries=5)
    got = pci_msi_alloc(card.pa, 4)
    cookie = pci_msi_establish(card.chipset, got[2], IPL.VM, card.handler, None)
    taken = {cookie.slot - 2 + i for i in range(4)}
    pci_msi_disestablish(card.chipset, cookie)
    wanted = entries(0, 1)
    pci_msix_alloc_exact(other.pa, wanted)
    for ih in handles(wanted):
        moved = pci_msix_establish(other.chipset, ih, IPL.VM, other.handler, None)
        assert moved.slot not in taken
    again = pci_msi_establish(card.chipset, got[2], IPL.VM, card.handler, None)
    assert again.slot == cookie.slot


# MSI-X.


def test_the_caller_chooses_the_table_index(m: Machine) -> None:
    card = Card(m, entries=5)
    wanted = entries(4, 0, 2)
    assert pci_msix_alloc(card.pa, wanted) == 3
    for entry in wanted:
        assert entry.me_handle is not None
        ih = pci_msix_establish(card.chipset, entry.me_handle, IPL.VM, card.handler, entry.me_index)
        m.intrctl.affinity(ih.name, entry.me_index % 4)
    for index in (0, 2, 4):
        card.fire(card.table.sources[index])
    assert card.calls == [(0, 0), (2, 2), (4, 0)]
    assert [card.table.read(16 * i) for i in (0, 2, 4)] == [0xFEE00000, 0xFEE02000, 0xFEE00000]
    assert [card.table.read(16 * i + 12) for i in range(5)] == [0, 1, 0, 1, 0], "only these are open"


@pytest.mark.parametrize("indices", [(0, 0), (5,), (-1,), ()])
def test_indices_must_be_distinct_and_exist(m: Machine, indices: tuple[int, ...]) -> None:
    card = Card(m, entries=5)
    for call in (pci_msix_alloc, pci_msix_alloc_exact):
        refused(EINVAL, call, card.pa, entries(*indices))
    assert card.chipset.vectors_free == PciChipset(m.engine).vectors_free


def test_a_handle_has_one_handler_and_dies_with_its_release(m: Machine) -> None:
    card = Card(m)
    wanted = entries(0)
    pci_msix_alloc_exact(card.pa, wanted)
    (ih,) = got = handles(wanted)
    cookie = pci_msix_establish_xname(card.chipset, ih, IPL.VM, card.handler, None, "dev0 RX0")
    refused(EBUSY, pci_msix_establish_xname, card.chipset, ih, IPL.VM, card.handler, None, "dev0 RX1")
    refused(EINVAL, pci_msix_release, got)
    pci_msix_disestablish(card.chipset, cookie)
    refused(EINVAL, pci_msix_disestablish, card.chipset, cookie)
    pci_msix_release(got)
    assert not card.msix.is_enabled
    refused(EINVAL, pci_msix_release, [ih])
    assert "released" in refused(EINVAL, pci_msix_establish, card.chipset, ih, IPL.VM, card.handler, None)


def test_a_device_keeps_its_number(m: Machine) -> None:
    card = Card(m)
    names = []
    for _ in range(2):
        wanted = entries(1)
        pci_msix_alloc_exact(card.pa, wanted)
        names.append(pci_intr_string(handles(wanted)[0]))
        pci_msix_release(handles(wanted))
    assert names == ["msix0 vec 1"] * 2


# Any type, in one call.


def test_the_best_type_there_is(m: Machine) -> None:
    card = Card(m)
    counts = {"msix": 5, "msi": 2, "intx": 1}
    got = pci_intr_alloc(card.pa, counts)  # type: ignore[arg-type]
    assert counts == {"msix": 5, "msi": 0, "intx": 0} and {pci_intr_type(ih) for ih in got} == {"msix"}
    pci_intr_release(got)
    counts = {"msix": 5, "msi": -1, "intx": 1}
    got = pci_intr_alloc(card.pa, counts, "msi")  # type: ignore[arg-type]
    assert counts == {"msix": 0, "msi": 4, "intx": 0}
    pci_intr_release(got)
    got = pci_intr_alloc(card.pa, {"msix": 6, "msi": 8, "intx": 1})
    assert [pci_intr_string(ih) for ih in got] == [f"ioapic0 pin {card.pa.line_number}"], "exact, or the next type"
    pci_intr_release(got)
    assert [pci_intr_type(ih) for ih in pci_intr_alloc(card.pa)] == ["msi"], "by default one MSI, else the line"


def test_what_cannot_be_asked_for(m: Machine) -> None:
    card = Card(m)
    refused(EINVAL, pci_intr_alloc, card.pa, {"intx": 2})
    refused(EINVAL, pci_intr_alloc, card.pa, {"msix": 1}, "msx")
    refused(EINVAL, pci_intr_alloc, card.pa, {"apic": 1})
    refused(ENODEV, pci_intr_alloc, card.pa, {"msix": 0})
    assert [pci_intr_next_type(kind) for kind in TYPES] == ["msi", "intx", None]
    refused(ENODEV, pci_intr_map, Card(m, pin=0).pa)


def test_a_line_is_shared_and_each_says_what_is_its_own(m: Machine) -> None:
    cards = [Card(m) for _ in range(5)]
    one, other = cards[0], cards[4]
    assert one.pa.line is other.pa.line, "four lines, in turn"
    cookies = []
    for number, card in ((0, one), (4, other)):

        def handler(arg: Any, card: Card = card) -> bool:
            if not card.is_up:
                return False
            card.is_up = False
            card.causes[0].take_cause()
            card.handler(arg)
            return True

        (ih,) = pci_intr_alloc(card.pa, {"intx": 1})
        cookies.append(pci_intr_establish_xname(card.chipset, ih, IPL.VM, handler, number, f"dev{number}"))
    assert [row.devices for row in m.intrctl.list()] == ["dev0, dev4"]
    other.is_up = True
    other.fire(other.causes[0])
    assert (one.calls, other.calls) == ([], [(4, 0)])
    m.intrctl.affinity("dev4", 2)  # the line moves, and with it both
    one.is_up = other.is_up = True
    one.fire(one.causes[0])
    assert (one.calls, other.calls) == ([(0, 2)], [(4, 0), (4, 2)])
    pci_intr_disestablish(one.chipset, cookies[0])
    assert [row.devices for row in m.intrctl.list()] == ["dev4"]
    other.is_up = True
    other.fire(other.causes[0])
    assert other.calls[-1] == (4, 2) and len(other.calls) == 3
    pci_intr_disestablish(other.chipset, cookies[1])
    assert m.intrctl.list() == []


def test_a_line_that_nobody_recognises_is_masked_by_name(m: Machine) -> None:
    card = Card(m)
    (ih,) = pci_intr_alloc(card.pa, {"intx": 1})
    seen = []
    pci_intr_establish_xname(card.chipset, ih, IPL.VM, lambda _: bool(seen.append(1)), None, "dev0")
    card.is_up = True
    card.fire(card.causes[0])
    assert len(seen) == 1000 and m.engine.intrs.masked_lines == [ih.text]
    assert m.engine.intrs.stray == 1000


def test_an_attribute_is_set_before_the_handler(m: Machine) -> None:
    card = Card(m)
    (ih,) = pci_intr_alloc(card.pa)
    pci_intr_setattr(ih, mpsafe=False)
    held = []
    cookie = pci_intr_establish_xname(
        card.chipset, ih, IPL.VM, lambda _: held.append(m.engine.kernel_lock.is_mine), None, "dev0"
    )
    card.fire(card.causes[0])
    assert held == [True] and not cookie.is_mpsafe
    refused(EINVAL, pci_intr_setattr, ih, True)


# What must not be used.


@pytest.mark.parametrize(
    ("ident", "bridge", "best"),
    [
        ((0x8086, 0x1F41), (0x8086, 0x1F00), "msix"),
        ((0x8086, 0x100E), (0x8086, 0x1F00), "intx"),
        ((0x8086, 0x105E), (0x8086, 0x1F00), "msix"),
        ((0x8086, 0x150C), (0x8086, 0x1F00), "msi"),
        ((0x8086, 0x1F41), (0x8086, 0x254C), "intx"),
        ((0x8086, 0x1F41), (0x10DE, 0x0369), "msi"),
    ],
)
def test_quirks_of_devices_and_bridges(
    m: Machine, ident: tuple[int, int], bridge: tuple[int, int], best: str
) -> None:
    card = Card(m, ident=ident, bridge=bridge)
    got = pci_intr_alloc(card.pa, {"msix": 2, "msi": 1, "intx": 1})
    assert {pci_intr_type(ih) for ih in got} == {best}


@pytest.mark.parametrize(
    ("switches", "best"), [({"use_msix": False}, "msi"), ({"use_msix": False, "use_msi": False}, "intx")]
)
def test_the_operators_switches(m: Machine, switches: dict[str, bool], best: str) -> None:
    card = Card(m, **switches)
    assert pci_intr_type(pci_intr_alloc(card.pa, {"msix": 1, "msi": 1, "intx": 1})[0]) == best
    if best == "intx":
        assert "switched off" in refused(ENODEV, pci_msi_alloc, card.pa, 1)


def test_a_table_behind_a_register_that_does_not_exist(m: Machine) -> None:
    card = Card(m)
    card.msix.bar = 6
    assert "BAR 6" in refused(EINVAL, pci_msix_alloc, card.pa, entries(0))
