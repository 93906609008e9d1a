"""A device as its driver finds it on the bus (NetBSD pci(9)): configuration space, capabilities, memory.

Context: thread or control thread, while the driver attaches, stops or detaches.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from netstack.hw.pci_regs import (
    BDF,
    COMMAND_INTX_DISABLE,
    COMMAND_MASTER,
    COMMAND_MEMORY,
    REG_BAR,
    REG_CAPABILITIES,
    REG_COMMAND,
    REG_ID,
    STATUS_CAPABILITIES,
)
from netstack.machine.api import Vector

if TYPE_CHECKING:
    from netstack.dev.pci_chipset import PciChipset

__all__ = ["Bus", "PciAttachArgs", "PciMemory"]

CAPABILITIES_MAX = 48  # what fits: a list that is longer has a loop


class Bus(Protocol):
    """Accesses a processor can make."""

    def config_read(self, place: BDF, offset: int) -> int: ...
    def config_write(self, place: BDF, offset: int, value: int) -> None: ...
    def memory_read(self, address: int) -> int: ...
    def memory_write(self, address: int, value: int) -> None: ...


class PciMemory:
    """Memory behind a base address register, mapped: aligned 32-bit accesses by offset."""

    def __init__(self, bus: Bus, base: int) -> None:
        self._bus = bus
        self.base = base

    def read(self, offset: int) -> int:
        """Read a word."""
        return self._bus.memory_read(self.base + offset)

    def write(self, offset: int, value: int) -> None:
        """Write a word."""
        self._bus.memory_write(self.base + offset, value)


@dataclass(frozen=True)
class PciAttachArgs:
    """What autoconfiguration hands to a driver (struct pci_attach_args).

    Args: line -- the interrupt line the pin is wired to, None without a pin.
    """

    bus: Bus
    place: BDF
    chipset: "PciChipset"
    line: Vector | None = None
    line_number: int = 0
    pin: int = 0

    @property
    def ident(self) -> tuple[int, int]:
        """Vendor and device number."""
        word = self.conf_read(REG_ID)
        return word & 0xFFFF, word >> 16

    def conf_read(self, offset: int) -> int:
        """Read an aligned word of configuration space."""
        return self.bus.config_read(self.place, offset)

    def conf_write(self, offset: int, value: int) -> None:
        """Write one."""
        self.bus.config_write(self.place, offset, value)

    def find_capability(self, ident: int) -> int | None:
        """Return the offset of a capability, or None (NetBSD pci_get_capability())."""
        if not self.conf_read(REG_COMMAND) & STATUS_CAPABILITIES:
            return None
        offset = self.conf_read(REG_CAPABILITIES) & 0xFC
        for _ in range(CAPABILITIES_MAX):
            if offset < 0x40:
                return None
            word = self.conf_read(offset)
            if word & 0xFF == ident:
                return offset
            offset = word >> 8 & 0xFC
        return None

    def map(self, bar: int) -> PciMemory | None:
        """Map the memory of a base address register (NetBSD pci_mapreg_map()); None when it has none."""
        low = self.conf_read(REG_BAR + 4 * bar)
        base = low & 0xFFFFFFF0
        if low & 0b110 == 0b100:
            base |= self.conf_read(REG_BAR + 4 * bar + 4) << 32
        return PciMemory(self.bus, base) if base else None

    def enable(self) -> None:
        """Let the function answer memory accesses and be a bus master."""
        self._command(COMMAND_MEMORY | COMMAND_MASTER, 0)

    def set_intx(self, is_on: bool) -> None:
        """Let the function use its line, or not: it must not while it uses MSI or MSI-X."""
        self._command(0 if is_on else COMMAND_INTX_DISABLE, COMMAND_INTX_DISABLE if is_on else 0)

    def _command(self, on: int, off: int) -> None:
        word = self.conf_read(REG_COMMAND) & 0xFFFF
        self.conf_write(REG_COMMAND, (word | on) & ~off)
