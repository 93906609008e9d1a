"""The MSI-X table of a device and its pending bits (paper §4.1, §5 Fig. 2; PCI Local Bus 3.0 §6.8.2).

An entry is 16 bytes: message address, upper address, message data, vector control (bit 0 masks).  On x86 the address is
0xFEE00000 with the destination CPU in bits 19:12 and the data carries the vector.  The paper puts the table into
configuration space; by the specification it lies in memory of a BAR, and so it does here.

Each entry is a compiled source; the interrupt code programs the same state with ``route``, ``mask`` and ``unmask``.
"""

from errno import EINVAL

from netstack._fast.intr import IntrController, IntrSource
from netstack.errors import NetstackError

__all__ = ["ENTRY_BYTES", "MSI_ADDRESS", "MsixTable"]

ENTRY_BYTES = 16
MSI_ADDRESS = 0xFEE00000
MASK_BIT = 1


class MsixTable:
    """``count`` entries, all masked at reset."""

    def __init__(self, controller: IntrController, count: int) -> None:
        self.sources = [IntrSource(controller) for _ in range(count)]

    def read(self, offset: int) -> int:
        """Return 32 bits of the table.  NetstackError(EINVAL) beyond it or unaligned."""
        source, field = self._entry(offset)
        words = (MSI_ADDRESS | source.cpu << 12, 0, source.slot, int(source.masked))
        return words[field]

    def write(self, offset: int, value: int) -> None:
        """Write 32 bits: a destination takes effect at once, unmasking sends what is pending.

        Raises: NetstackError(EINVAL) for an address outside 0xFEExxxxx, which would be a write to memory,
                and for a CPU that does not exist.
        """
        source, field = self._entry(offset)
        if field == 0:
            if value & ~0x000FF000 != MSI_ADDRESS:
                raise NetstackError(EINVAL, f"message address {value:#x} is not 0xFEEnn000: trapped")
            cpu = value >> 12 & 0xFF
            if cpu >= source.controller.ncpu:
                raise NetstackError(EINVAL, f"message address {value:#x}: there is no CPU {cpu}")
            source.route(cpu, source.slot)
        elif field == 2:
            source.route(source.cpu, value & 0xFF)
        elif field == 3:
            (source.mask if value & MASK_BIT else source.unmask)()

    def pending(self) -> int:
        """Return the pending-bit array: bit per entry."""
        return sum(source.pending << i for i, source in enumerate(self.sources))

    def _entry(self, offset: int) -> tuple[IntrSource, int]:
        index, rest = divmod(offset, ENTRY_BYTES)
        if rest % 4 or not 0 <= index < len(self.sources):
            raise NetstackError(EINVAL, f"no MSI-X table word at offset {offset:#x}")
        return self.sources[index], rest // 4
