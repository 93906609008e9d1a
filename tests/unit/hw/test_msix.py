"""The MSI-X table byte by byte (paper §4.1, §5 Fig. 2; PCI Local Bus 3.0 §6.8.2)."""

from errno import EINVAL

import pytest

from netstack._fast.cpu import CpuBlock, SoftintTable
from netstack._fast.intr import IntrController
from netstack._fast.mbuf import MbufPool
from netstack._fast.pserialize import PSerialize
from netstack.errors import NetstackError
from netstack.hw.msix import MsixTable
from netstack.hw.pci_regs import MSI_ADDRESS
from netstack.hw.pci_regs import MSIX_ENTRY_BYTES as ENTRY_BYTES

ADDRESS, UPPER, DATA, CONTROL = 0, 4, 8, 12
MASKED, OPEN = 1, 0


class Board:
    """A table of five entries and three CPUs to send to."""

    def __init__(self) -> None:
        self.controller = IntrController(3)
        pool, soft, psz = MbufPool(8, 3), SoftintTable(), PSerialize(3)
        self.cpus = [CpuBlock(i, self.controller, pool, soft, psz) for i in range(3)]
        self.table = MsixTable(self.controller, 5)
        self.table.set_control(enabled=True, masked=False)

    def write(self, entry: int, field: int, value: int) -> None:
        self.table.write(ENTRY_BYTES * entry + field, value)

    def read(self, entry: int, field: int) -> int:
        return self.table.read(ENTRY_BYTES * entry + field)

    def fire(self, entry: int) -> None:
        source = self.table.sources[entry]
        source.enable()
        source.raise_()

    def arrived(self) -> list[list[int]]:
        return [cpu.intr_peek() for cpu in self.cpus]


def test_reset_state() -> None:
    board = Board()
    assert len(board.table.sources) == 5
    for entry in range(5):
        words = [board.read(entry, field) for field in (ADDRESS, UPPER, DATA, CONTROL)]
        assert words == [MSI_ADDRESS, 0, 0, MASKED]
    assert board.table.pending() == 0


def test_the_address_carries_the_cpu_and_the_data_the_vector() -> None:
    board = Board()
    board.write(1, ADDRESS, 0xFEE02000)
    board.write(1, DATA, 0x41)
    board.write(1, CONTROL, OPEN)
    assert board.read(1, ADDRESS) == 0xFEE02000
    assert board.read(1, DATA) == 0x41
    assert board.read(1, CONTROL) == OPEN
    assert board.read(2, ADDRESS) == 0xFEE00000, "entries do not touch each other"
    board.fire(1)
    assert board.arrived() == [[], [], [0x41]]


def test_the_papers_binding() -> None:
    """Paper §5: CPU 1 takes entries 0 and 2, CPU 2 takes 1 and 3, CPU 0 the link's entry 4."""
    board = Board()
    for entry, cpu in enumerate((1, 2, 1, 2, 0)):
        board.write(entry, ADDRESS, MSI_ADDRESS | cpu << 12)
        board.write(entry, DATA, 0x20 + entry)
        board.write(entry, CONTROL, OPEN)
    for entry in range(5):
        board.fire(entry)
    assert board.arrived() == [[0x24], [0x20, 0x22], [0x21, 0x23]]


def test_a_masked_entry_sets_its_pending_bit_and_sends_when_unmasked() -> None:
    board = Board()
    for entry in (0, 3):
        board.write(entry, DATA, 10 + entry)
        board.fire(entry)
    assert board.table.pending() == 0b01001
    assert board.arrived() == [[], [], []]
    board.write(3, ADDRESS, 0xFEE01000)
    board.write(3, CONTROL, OPEN)
    assert board.arrived() == [[], [13], []]
    assert board.table.pending() == 0b00001
    board.write(3, CONTROL, MASKED)
    assert board.table.pending() == 0b00001, "masking sends nothing and forgets nothing"


@pytest.mark.parametrize("value", [0, 0xFEE00004, 0xFED00000, 0xFEF00000, 0x1_FEE0_0000, 0xFFE00000])
def test_an_address_elsewhere_would_write_to_memory(value: int) -> None:
    board = Board()
    with pytest.raises(NetstackError, match="trapped") as caught:
        board.write(0, ADDRESS, value)
    assert caught.value.errno == EINVAL
    assert board.read(0, ADDRESS) == MSI_ADDRESS


@pytest.mark.parametrize("cpu", [3, 255])
def test_a_cpu_that_does_not_exist(cpu: int) -> None:
    board = Board()
    with pytest.raises(NetstackError, match=f"no CPU {cpu}") as caught:
        board.write(0, ADDRESS, MSI_ADDRESS | cpu << 12)
    assert caught.value.errno == EINVAL


@pytest.mark.parametrize("offset", [-16, -4, 1, 2, 6, 5 * ENTRY_BYTES, 1000])
def test_what_is_no_word_of_the_table(offset: int) -> None:
    board = Board()
    for access in (lambda: board.table.read(offset), lambda: board.table.write(offset, 0)):
        with pytest.raises(NetstackError, match="no MSI-X table word") as caught:
            access()
        assert caught.value.errno == EINVAL


def test_only_bit_0_of_the_control_word_masks() -> None:
    board = Board()
    board.write(0, CONTROL, 0xFFFFFFFE)
    assert board.read(0, CONTROL) == OPEN
    board.write(0, CONTROL, 0xFFFFFFFF)
    assert board.read(0, CONTROL) == MASKED


def test_data_has_eight_bits_of_vector() -> None:
    board = Board()
    board.write(0, DATA, 0x4123)
    assert board.read(0, DATA) == 0x23
    with pytest.raises(NetstackError) as refusal:
        board.write(0, UPPER, 5)  # an address above 4 GiB is no message address
    assert refusal.value.errno == EINVAL and "trapped" in str(refusal.value)
    assert board.read(0, UPPER) == 0
