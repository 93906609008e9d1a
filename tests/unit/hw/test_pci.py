"""Configuration space, base address registers, capabilities, and where messages may go (PCI 3.0, chapter 6)."""

from errno import EBUSY, EEXIST, EINVAL
from itertools import pairwise

import pytest

from netstack._fast.cpu import CpuBlock, SoftintTable
from netstack._fast.intr import IntrController, IntrSource
from netstack._fast.mbuf import MbufPool
from netstack._fast.pserialize import PSerialize
from netstack.errors import NetstackError
from netstack.hw.intx import IntxFunction, IntxLine
from netstack.hw.msi import MsiCapability
from netstack.hw.msix import MsixCapability, MsixTable
from netstack.hw.pci import PciBus, PciFunction, Region
from netstack.hw.pci_host import HOST_BRIDGE, PciHost
from netstack.hw.pci_regs import (
    BDF,
    CAP_MSI,
    CAP_MSIX,
    COMMAND_MASTER,
    COMMAND_MEMORY,
    MSI_CONTROL_ENABLE,
    MSIX_CONTROL_ENABLE,
    MSIX_CONTROL_MASK,
    REG_BAR,
    REG_CAPABILITIES,
    REG_COMMAND,
    REG_ID,
    REG_INTERRUPT,
    STATUS_CAPABILITIES,
    STATUS_INTX,
    message_address,
    message_cpu,
)

PLACE = BDF(0, 3, 0)
ONES = 0xFFFFFFFF


class Memory:
    """A region that remembers."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def region(self, nbytes: int, is_64bit: bool = False) -> Region:
        return Region(nbytes, lambda at: self.words.get(at, 0), self.words.__setitem__, is_64bit)


def bus_with(function: PciFunction) -> PciBus:
    bus = PciBus()
    bus.add(PLACE, function)
    return bus


def processors(count: int = 3) -> tuple[IntrController, list[CpuBlock]]:
    controller = IntrController(count)
    pool, soft, psz = MbufPool(8, count), SoftintTable(), PSerialize(count)
    return controller, [CpuBlock(i, controller, pool, soft, psz) for i in range(count)]


# Configuration space.


def test_nobody_answers_with_ones() -> None:
    bus = PciBus()
    assert bus.config_read(PLACE, REG_ID) == ONES
    bus.config_write(PLACE, REG_COMMAND, 7)
    assert list(bus.scan()) == []


def test_identity_and_read_only_words() -> None:
    bus = bus_with(PciFunction(0x8086, 0x1F41, 0x020000, revision=3, subsystem=0x00011028))
    assert bus.config_read(PLACE, REG_ID) == 0x1F418086
    assert bus.config_read(PLACE, 0x08) == 0x02000003
    bus.config_write(PLACE, REG_ID, 0)
    assert bus.config_read(PLACE, REG_ID) == 0x1F418086
    assert bus.config_read(PLACE, REG_INTERRUPT) >> 8 == 1
    bus.config_write(PLACE, REG_INTERRUPT, 0xFF0B)
    assert bus.config_read(PLACE, REG_INTERRUPT) == 0x010B, "the line is the system's, the pin is not"


@pytest.mark.parametrize("offset", [1, 2, 254, 256, -4])
def test_an_access_off_the_grid_is_refused(offset: int) -> None:
    with pytest.raises(NetstackError) as refusal:
        bus_with(PciFunction(1, 2, 0)).config_read(PLACE, offset)
    assert refusal.value.errno == EINVAL


def test_a_place_is_taken_once_and_must_exist() -> None:
    bus = bus_with(PciFunction(1, 2, 0))
    with pytest.raises(NetstackError) as refusal:
        bus.add(PLACE, PciFunction(1, 2, 0))
    assert refusal.value.errno == EEXIST
    for place in (BDF(0, 32, 0), BDF(256, 0, 0), BDF(0, 0, 8)):
        with pytest.raises(NetstackError):
            bus.add(place, PciFunction(1, 2, 0))


# Base address registers.


def test_a_register_tells_its_size() -> None:
    function = PciFunction(1, 2, 0)
    function.add_region(0, Memory().region(0x20000))
    bus = bus_with(function)
    bus.config_write(PLACE, REG_BAR, ONES)
    assert bus.config_read(PLACE, REG_BAR) == 0xFFFE0000
    bus.config_write(PLACE, REG_BAR, 0xE0012345)
    assert bus.config_read(PLACE, REG_BAR) == 0xE0000000, "an address is aligned to the size"
    assert bus.config_read(PLACE, REG_BAR + 4) == 0, "a register without memory stays 0"


def test_memory_above_four_gigabytes() -> None:
    memory, function = Memory(), PciFunction(1, 2, 0)
    function.add_region(2, memory.region(0x1000, is_64bit=True))
    bus = bus_with(function)
    bus.config_write(PLACE, REG_BAR + 8, 0x80000000)
    bus.config_write(PLACE, REG_BAR + 12, 5)
    bus.config_write(PLACE, REG_COMMAND, COMMAND_MEMORY)
    assert bus.config_read(PLACE, REG_BAR + 8) == 0x80000004
    bus.memory_write(0x5_80000010, 77)
    assert memory.words == {0x10: 77} and bus.memory_read(0x5_80000010) == 77
    with pytest.raises(NetstackError) as refusal:
        function.add_region(3, Memory().region(16))
    assert refusal.value.errno == EEXIST, "the upper half is taken"


def test_memory_is_decoded_only_when_enabled() -> None:
    memory, function = Memory(), PciFunction(1, 2, 0)
    function.add_region(0, memory.region(0x100))
    bus = bus_with(function)
    bus.config_write(PLACE, REG_BAR, 0xE0000000)
    assert bus.memory_read(0xE0000000) == ONES
    bus.memory_write(0xE0000000, 1)
    assert memory.words == {} and bus.aborts == 2
    bus.config_write(PLACE, REG_COMMAND, COMMAND_MEMORY)
    bus.memory_write(0xE0000000, 1)
    assert memory.words == {0: 1} and bus.memory_read(0xE0000100) == ONES and bus.aborts == 3


@pytest.mark.parametrize(("bar", "nbytes"), [(6, 16), (-1, 16), (0, 8), (0, 24)])
def test_a_region_that_cannot_be(bar: int, nbytes: int) -> None:
    with pytest.raises(NetstackError) as refusal:
        PciFunction(1, 2, 0).add_region(bar, Memory().region(nbytes))
    assert refusal.value.errno == EINVAL


# Capabilities.


def test_the_list_leads_from_one_capability_to_the_next() -> None:
    controller, _ = processors()
    function = PciFunction(1, 2, 0)
    bus = bus_with(function)
    assert not bus.config_read(PLACE, REG_COMMAND) & STATUS_CAPABILITIES
    first = function.add_capability(MsiCapability(controller, [IntrSource(controller)]))
    second = function.add_capability(MsixCapability(MsixTable(controller, 5), 3))
    assert bus.config_read(PLACE, REG_COMMAND) & STATUS_CAPABILITIES
    assert bus.config_read(PLACE, REG_CAPABILITIES) == first
    assert bus.config_read(PLACE, first) & 0xFFFF == second << 8 | CAP_MSI
    assert bus.config_read(PLACE, second) & 0xFFFF == CAP_MSIX
    with pytest.raises(NetstackError) as refusal:
        for _ in range(20):
            function.add_capability(MsiCapability(controller, [IntrSource(controller)]))
    assert refusal.value.errno == EBUSY


def msix(count: int) -> tuple[PciBus, list[CpuBlock], MsixTable, int]:
    """A function with ``count`` entries, its memory at 0xE0000000."""
    controller, cpus = processors()
    function = PciFunction(1, 2, 0)
    table = MsixTable(controller, count)
    capability = MsixCapability(table, 0)
    function.add_region(0, capability.region)
    at = function.add_capability(capability)
    bus = bus_with(function)
    bus.config_write(PLACE, REG_BAR, 0xE0000000)
    bus.config_write(PLACE, REG_COMMAND, COMMAND_MEMORY | COMMAND_MASTER)
    return bus, cpus, table, at


@pytest.mark.parametrize("count", [1, 5, 64, 65, 2048])
def test_table_and_pending_bits_lie_in_one_region(count: int) -> None:
    bus, _, table, at = msix(count)
    assert (bus.config_read(PLACE, at) >> 16 & 0x7FF) + 1 == count
    assert bus.config_read(PLACE, at + 4) == 0, "the table: BIR 0, offset 0"
    pending = bus.config_read(PLACE, at + 8)
    assert pending & 7 == 0 and pending >= 16 * count
    last = table.sources[-1]
    last.enable()
    last.raise_()
    number = count - 1
    assert bus.memory_read(0xE0000000 + pending + number // 32 * 4) == 1 << number % 32


def test_an_entry_needs_enable_no_function_mask_and_its_own_bit() -> None:
    bus, cpus, table, at = msix(2)
    base = 0xE0000000
    bus.memory_write(base, message_address(2))
    bus.memory_write(base + 8, 0x31)

    def fire() -> list[int]:
        table.sources[0].enable()
        table.sources[0].raise_()
        return cpus[2].intr_peek()

    bus.memory_write(base + 12, 0)
    assert fire() == [], "not enabled"
    bus.config_write(PLACE, at, MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK)
    assert fire() == [], "all masked"
    bus.memory_write(base + 12, 1)
    bus.config_write(PLACE, at, MSIX_CONTROL_ENABLE)
    assert fire() == [], "its own mask bit"
    bus.memory_write(base + 12, 0)
    assert cpus[2].intr_peek() == [0x31], "what was pending is sent once"
    assert table.sources[0].raised == 1


def test_no_messages_without_bus_mastering() -> None:
    controller, cpus = processors()
    sources = [IntrSource(controller)]
    capability = MsiCapability(controller, sources)
    capability.write(4, message_address(1))
    capability.write(12, 0x20)
    capability.is_allowed = False
    capability.write(0, MSI_CONTROL_ENABLE)
    sources[0].enable()
    sources[0].raise_()
    assert cpus[1].intr_peek() == []
    capability.is_allowed = True
    capability.apply()
    assert cpus[1].intr_peek() == [0x20]


# MSI.


def test_messages_are_contiguous_and_aligned() -> None:
    controller, cpus = processors()
    sources = [IntrSource(controller) for _ in range(4)]
    capability = MsiCapability(controller, sources, offered=4)
    assert capability.read(0) >> 17 & 7 == 2
    capability.write(4, message_address(1))
    capability.write(12, 0x43)  # low bits are the message's number, whatever is written
    capability.write(0, MSI_CONTROL_ENABLE | 2 << 20)
    for source in sources:
        source.enable()
        source.raise_()
    assert sorted(cpus[1].intr_peek()) == [0x40, 0x41, 0x42, 0x43]


def test_fewer_messages_than_causes_share_the_last() -> None:
    controller, cpus = processors()
    sources = [IntrSource(controller) for _ in range(3)]
    capability = MsiCapability(controller, sources, offered=4)
    capability.write(4, message_address(0))
    capability.write(12, 0x50)
    capability.write(0, MSI_CONTROL_ENABLE | 1 << 20)
    capability.write(16, 0b10)
    for source in sources:
        source.enable()
        source.raise_()
    assert cpus[0].intr_peek() == [0x50] and capability.read(20) == 0b10
    capability.write(16, 0)
    assert sorted(cpus[0].intr_peek()) == [0x50, 0x51]


@pytest.mark.parametrize("count", [0, 3, 64])
def test_msi_offers_powers_of_two_up_to_32(count: int) -> None:
    controller, _ = processors()
    with pytest.raises(NetstackError):
        MsiCapability(controller, [IntrSource(controller)], offered=count)


@pytest.mark.parametrize(
    ("low", "high"), [(0x1000, 0), (0xFEF00000, 0), (message_address(7), 0), (message_address(0), 1)]
)
def test_a_message_elsewhere_is_trapped(low: int, high: int) -> None:
    controller, _ = processors()
    capability = MsiCapability(controller, [IntrSource(controller)])
    capability.write(4, low)
    capability.write(8, high)
    with pytest.raises(NetstackError) as refusal:
        capability.write(0, MSI_CONTROL_ENABLE)
    assert refusal.value.errno == EINVAL and not capability.is_enabled


def test_message_addresses_of_the_specification() -> None:
    assert [message_address(cpu) for cpu in (0, 1, 4, 15)] == [0xFEE00000, 0xFEE01000, 0xFEE04000, 0xFEE0F000]
    assert message_cpu(0xFEE0F000) == 15
    assert [message_cpu(each) for each in (0xFEE0F008, 0xFED00000, 0x1FEE00000)] == [None, None, None]


# Lines.


class Level:
    """A function on a line: asserts until told otherwise."""

    def __init__(self, controller: IntrController) -> None:
        self.source = IntrSource(controller)
        self.is_up = False
        self.is_open = True
        self.intx = IntxFunction([self.source], lambda: self.is_open, lambda: self.is_up)

    def fire(self) -> None:
        self.is_up = True
        self.source.enable()
        self.source.raise_()


def test_a_line_delivers_until_nobody_asserts() -> None:
    controller, cpus = processors()
    line, one, other = IntxLine(controller, 17), Level(controller), Level(controller)
    for function in (one, other):
        line.attach(function.intx)
    line.route(1, 9)
    one.fire()
    assert cpus[1].intr_peek() == [], "masked: it waits"
    line.unmask()
    assert cpus[1].intr_peek() == [9]
    cpus[1].intr_clear(9)
    other.fire()
    assert cpus[1].intr_peek() == [9]
    cpus[1].intr_clear(9)
    one.is_up = False
    line.eoi()
    assert cpus[1].intr_peek() == [9] and line.raised_again == 1
    cpus[1].intr_clear(9)
    other.is_up = False
    line.eoi()
    assert cpus[1].intr_peek() == [] and not line.is_asserted


def test_a_function_that_may_not_use_the_line_is_not_seen() -> None:
    controller, cpus = processors()
    line, one = IntxLine(controller, 17), Level(controller)
    one.is_open = False
    line.attach(one.intx)
    line.route(1, 9)
    line.unmask()
    one.fire()
    assert cpus[1].intr_peek() == [] and not line.is_asserted


# The host.


def test_places_addresses_and_lines() -> None:
    controller, _ = processors()
    host = PciHost(controller)
    assert list(host.bus.scan()) == [HOST_BRIDGE]
    seen: list[tuple[int, int]] = []
    lines = []
    for number in range(40):
        function = PciFunction(1, number, 0)
        function.add_region(0, Memory().region(0x20000))
        function.add_region(3, Memory().region(0x400))
        source = IntrSource(controller)
        intx = IntxFunction([source], lambda: True, lambda: False)
        place = host.plug(function, intx)
        assert host.bus.config_read(place, REG_ID) >> 16 == number
        seen += [(function.base(0), 0x20000), (function.base(3), 0x400)]
        assert intx.line is not None and function.line == intx.line.number
        lines.append(function.line)
    assert lines[:5] == [17, 18, 19, 16, 17], "neighbours land on different lines"
    ends = sorted(seen)
    assert all(a + size <= b for (a, size), (b, _) in pairwise(ends)), "no two overlap"
    assert all(base % size == 0 for base, size in seen)
    host.unplug(BDF(0, 2, 0))
    assert host.bus.config_read(BDF(0, 2, 0), REG_ID) == ONES
    assert host.plug(PciFunction(1, 99, 0)) == BDF(0, 2, 0), "a free place is used again"


def test_the_status_bit_of_the_line() -> None:
    function = PciFunction(1, 2, 0)
    bus = bus_with(function)
    assert not bus.config_read(PLACE, REG_COMMAND) & STATUS_INTX
    function.is_asserted = lambda: True
    assert bus.config_read(PLACE, REG_COMMAND) & STATUS_INTX
