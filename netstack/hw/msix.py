"""The MSI-X table of a device and its pending bits (paper §4.1, §5 Fig. 2; PCI Local Bus 3.0 §6.8.2).

An entry is 16 bytes: message address, upper address, message data, vector control (bit 0 masks).  On x86 the address is
0xFEE00000 with the destination CPU in bits 19:12 and the data carries the vector.  The paper puts the table into
configuration space; by the specification it lies in memory of a BAR, and so it does here: table and pending bits are
two areas of one region, and configuration space has the capability that says where they are.

Each entry is a compiled source.  It sends when the capability is enabled, the function mask is off and its own mask bit
is off; a message that meets a mask waits in the pending bit.
"""

from errno import EINVAL

from netstack._fast.intr import IntrController, IntrSource
from netstack.errors import NetstackError
from netstack.hw.pci import Region
from netstack.hw.pci_regs import (
    CAP_MSIX,
    MSIX_CONTROL_ENABLE,
    MSIX_CONTROL_MASK,
    MSIX_ENTRIES_MAX,
    MSIX_ENTRY_BYTES,
    MSIX_ENTRY_MASK,
    message_address,
    message_cpu,
)

__all__ = ["MsixCapability", "MsixTable"]


class MsixTable:
    """``count`` entries, all masked at reset; ``is_enabled`` and ``is_function_masked`` are the capability's."""

    def __init__(self, controller: IntrController, count: int) -> None:
        if not 1 <= count <= MSIX_ENTRIES_MAX:
            raise NetstackError(EINVAL, f"an MSI-X table has 1 to {MSIX_ENTRIES_MAX} entries, not {count}")
        self.sources = [IntrSource(controller) for _ in range(count)]
        self.is_enabled = False
        self.is_function_masked = False
        self._is_masked = [True] * count

    def read(self, offset: int) -> int:
        """Return 32 bits of the table.  NetstackError(EINVAL) beyond it or unaligned."""
        index, field = self._entry(offset)
        source = self.sources[index]
        return (message_address(source.cpu), 0, source.slot, int(self._is_masked[index]))[field]

    def write(self, offset: int, value: int) -> None:
        """Write 32 bits: a destination takes effect at once, unmasking sends what is pending.

        Raises: NetstackError(EINVAL) for an address outside 0xFEExxxxx, which would be a write to memory,
                and for a CPU that does not exist.
        """
        index, field = self._entry(offset)
        source = self.sources[index]
        if field == 0:
            cpu = message_cpu(value)
            if cpu is None:
                raise NetstackError(EINVAL, f"message address {value:#x} is not 0xFEEnn000: trapped")
            if cpu >= source.controller.ncpu:
                raise NetstackError(EINVAL, f"message address {value:#x}: there is no CPU {cpu}")
            source.route(cpu, source.slot)
        elif field == 1:
            if value:
                raise NetstackError(EINVAL, f"upper message address {value:#x} is not 0: trapped")
        elif field == 2:
            source.route(source.cpu, value & 0xFF)
        else:
            self._is_masked[index] = bool(value & MSIX_ENTRY_MASK)
            self._apply(index)

    def pending(self) -> int:
        """Return the pending-bit array as one number: bit per entry."""
        return sum(source.pending << i for i, source in enumerate(self.sources))

    def set_control(self, enabled: bool, masked: bool) -> None:
        """Follow the capability's enable and function mask bits."""
        self.is_enabled, self.is_function_masked = enabled, masked
        for index in range(len(self.sources)):
            self._apply(index)

    def _apply(self, index: int) -> None:
        is_open = self.is_enabled and not self.is_function_masked and not self._is_masked[index]
        source = self.sources[index]
        if is_open == source.masked:
            (source.unmask if is_open else source.mask)()

    def _entry(self, offset: int) -> tuple[int, int]:
        index, rest = divmod(offset, MSIX_ENTRY_BYTES)
        if rest % 4 or not 0 <= index < len(self.sources):
            raise NetstackError(EINVAL, f"no MSI-X table word at offset {offset:#x}")
        return index, rest // 4


class MsixCapability:
    """The capability, and the region in which table and pending bits lie.

    Args: bar -- the register (BIR) of that region.
    """

    ident = CAP_MSIX
    nbytes = 12

    def __init__(self, table: MsixTable, bar: int) -> None:
        self.table = table
        self.bar = bar
        self.is_allowed = True  # bus mastering
        self._control = 0
        self._pba = len(table.sources) * MSIX_ENTRY_BYTES
        size = self._pba + (len(table.sources) + 63) // 64 * 8
        self.region = Region(1 << (size - 1).bit_length(), self._memory_read, self._memory_write)

    @property
    def is_enabled(self) -> bool:
        """Whether the function signals by MSI-X."""
        return bool(self._control & MSIX_CONTROL_ENABLE)

    def read(self, offset: int) -> int:
        """Return a word: control, where the table is, where the pending bits are."""
        if offset == 0:
            return self._control | (len(self.table.sources) - 1) << 16
        return self.bar if offset == 4 else self._pba | self.bar

    def write(self, offset: int, value: int) -> None:
        """Take the control word."""
        if offset == 0:
            self._control = value & (MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK)
            self.apply()

    def apply(self) -> None:
        """Follow the control word, or a change of the command register."""
        self.table.set_control(self.is_enabled and self.is_allowed, bool(self._control & MSIX_CONTROL_MASK))

    def _memory_read(self, offset: int) -> int:
        if offset < self._pba:
            return self.table.read(offset)
        return self.table.pending() >> (offset - self._pba) * 8 & 0xFFFFFFFF

    def _memory_write(self, offset: int, value: int) -> None:
        if offset < self._pba:
            self.table.write(offset, value)
