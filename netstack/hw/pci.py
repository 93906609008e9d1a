"""A PCI bus: functions, their configuration space, and memory behind base address registers.

Configuration space answers with ones where nothing is, as on hardware.  A base address register that
is written with ones reads back its size.  A memory access that no enabled register decodes is a master
abort: reads give ones, writes vanish, and ``aborts`` counts them.

Source:  PCI Local Bus Specification 3.0, 6.1 to 6.7.
Context: control plane of drivers; one access at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EBUSY, EEXIST, EINVAL
from typing import Protocol

from netstack.errors import NetstackError
from netstack.hw.pci_regs import (
    BAR_COUNT,
    BDF,
    COMMAND_INTX_DISABLE,
    COMMAND_MASTER,
    COMMAND_MEMORY,
    CONFIG_BYTES,
    REG_BAR,
    REG_CAPABILITIES,
    REG_CLASS,
    REG_COMMAND,
    REG_ID,
    REG_INTERRUPT,
    REG_SUBSYSTEM,
    STATUS_CAPABILITIES,
    STATUS_INTX,
)

__all__ = ["Capability", "PciBus", "PciFunction", "Region"]

ONES = 0xFFFFFFFF
FIRST_CAPABILITY = 0x40
COMMAND_WRITABLE = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE


@dataclass
class Region:
    """Memory of a device behind one base address register: ``nbytes`` is a power of two from 16."""

    nbytes: int
    read: Callable[[int], int]
    write: Callable[[int, int], None]
    is_64bit: bool = False


class Capability(Protocol):
    """An entry of the capability list; offsets are relative to it, words are 32 bits."""

    ident: int
    nbytes: int

    def read(self, offset: int) -> int:
        """Return a word; bits 15:0 of the first are the list's own."""

    def write(self, offset: int, value: int) -> None:
        """Take a word."""


class PciFunction:
    """One function: a header of type 0, up to six base address registers, capabilities.

    Args: pin -- INTx pin 1..4, 0 for a function that has none.
    """

    def __init__(
        self, vendor: int, device: int, class_code: int, *, pin: int = 1, subsystem: int = 0, revision: int = 0
    ) -> None:
        self.vendor, self.device, self.class_code = vendor, device, class_code
        self.pin, self.subsystem, self.revision = pin, subsystem, revision
        self.line = 0xFF
        self.command = 0
        self.is_asserted: Callable[[], bool] = lambda: False  # does the function want INTx?
        self.command_changed: Callable[[], None] = lambda: None
        self._regions: dict[int, Region] = {}
        self._bars = [0] * BAR_COUNT
        self._capabilities: list[tuple[int, Capability]] = []

    def add_region(self, bar: int, region: Region) -> None:
        """Put memory behind a register.  NetstackError(EINVAL): bad size or register; EEXIST: taken."""
        last = bar + region.is_64bit
        if not 0 <= bar <= last < BAR_COUNT or region.nbytes < 16 or region.nbytes & (region.nbytes - 1):
            raise NetstackError(EINVAL, f"BAR {bar} of {region.nbytes} bytes: no such register or size")
        if any(b in self._regions or self._is_upper(b) for b in range(bar, last + 1)):
            raise NetstackError(EEXIST, f"BAR {bar} is in use")
        self._regions[bar] = region

    def add_capability(self, capability: Capability) -> int:
        """Append to the list; return the offset in configuration space.  NetstackError(EBUSY): no room."""
        at = FIRST_CAPABILITY
        if self._capabilities:
            at, before = self._capabilities[-1]
            at += before.nbytes + 3 & ~3
        if at + capability.nbytes > CONFIG_BYTES:
            raise NetstackError(EBUSY, "configuration space has no room for another capability")
        self._capabilities.append((at, capability))
        return at

    @property
    def regions(self) -> dict[int, Region]:
        """Regions by register."""
        return self._regions

    def base(self, bar: int) -> int:
        """Return the address in a register; 0 when none was assigned."""
        address = self._bars[bar] & ~0xF
        return address | self._bars[bar + 1] << 32 if self._regions[bar].is_64bit else address

    def config_read(self, offset: int) -> int:
        """Return an aligned word of configuration space."""
        match offset:
            case 0x00:  # REG_ID
                return self.device << 16 | self.vendor
            case 0x04:  # REG_COMMAND
                status = STATUS_CAPABILITIES if self._capabilities else 0
                return self.command | status | (STATUS_INTX if self.is_asserted() else 0)
            case 0x08:  # REG_CLASS
                return self.class_code << 8 | self.revision
            case 0x2C:  # REG_SUBSYSTEM
                return self.subsystem
            case 0x34:  # REG_CAPABILITIES
                return self._capabilities[0][0] if self._capabilities else 0
            case 0x3C:  # REG_INTERRUPT
                return self.pin << 8 | self.line
        if REG_BAR <= offset < REG_BAR + 4 * BAR_COUNT:
            return self._bar_read((offset - REG_BAR) // 4)
        for number, (at, capability) in enumerate(self._capabilities):
            if at <= offset < at + capability.nbytes:
                word = capability.read(offset - at)
                if offset != at:
                    return word
                after = self._capabilities[number + 1][0] if number + 1 < len(self._capabilities) else 0
                return word & 0xFFFF0000 | after << 8 | capability.ident
        return 0

    def config_write(self, offset: int, value: int) -> None:
        """Take an aligned word; read-only bits stay."""
        if offset == REG_COMMAND:
            self.command = value & COMMAND_WRITABLE
            self.command_changed()
        elif offset == REG_INTERRUPT:
            self.line = value & 0xFF
        elif REG_BAR <= offset < REG_BAR + 4 * BAR_COUNT:
            self._bar_write((offset - REG_BAR) // 4, value)
        for at, capability in self._capabilities:
            if at <= offset < at + capability.nbytes:
                capability.write(offset - at, value)

    def _is_upper(self, bar: int) -> bool:
        region = self._regions.get(bar - 1)
        return region is not None and region.is_64bit

    def _bar_read(self, bar: int) -> int:
        region = self._regions.get(bar)
        if region is not None:
            return self._bars[bar] & ~(region.nbytes - 1) & ONES | (0b100 if region.is_64bit else 0)
        return self._bars[bar] if self._is_upper(bar) else 0

    def _bar_write(self, bar: int, value: int) -> None:
        region = self._regions.get(bar)
        if region is not None:
            self._bars[bar] = value & ~(region.nbytes - 1) & ONES
        elif self._is_upper(bar):
            self._bars[bar] = value & ONES


class PciBus:
    """Functions by place, and the memory they decode."""

    def __init__(self) -> None:
        self._functions: dict[BDF, PciFunction] = {}
        self.aborts = 0  # accesses that nobody answered

    def add(self, place: BDF, function: PciFunction) -> None:
        """Plug a function in.  NetstackError(EEXIST): the place is taken; EINVAL: there is no such place."""
        if not (0 <= place.bus < 256 and 0 <= place.dev < 32 and 0 <= place.fun < 8):
            raise NetstackError(EINVAL, f"{tuple(place)} is no place on a PCI bus")
        if place in self._functions:
            raise NetstackError(EEXIST, f"{place} is taken")
        self._functions[place] = function

    def remove(self, place: BDF) -> None:
        """Unplug."""
        self._functions.pop(place, None)

    def scan(self) -> Iterator[BDF]:
        """Yield the places that answer, in order."""
        yield from sorted(self._functions)

    def function(self, place: BDF) -> PciFunction | None:
        """Return what is plugged in at a place, for the model side."""
        return self._functions.get(place)

    def config_read(self, place: BDF, offset: int) -> int:
        """Driver: read an aligned word of configuration space; ones where nobody is."""
        function = self._at(place, offset)
        return ONES if function is None else function.config_read(offset)

    def config_write(self, place: BDF, offset: int, value: int) -> None:
        """Driver: write an aligned word; nothing where nobody is."""
        function = self._at(place, offset)
        if function is not None:
            function.config_write(offset, value & ONES)

    def memory_read(self, address: int) -> int:
        """Driver: read an aligned word of device memory."""
        found = self._decode(address)
        if found is None:
            self.aborts += 1
            return ONES
        region, offset = found
        return region.read(offset) & ONES

    def memory_write(self, address: int, value: int) -> None:
        """Driver: write an aligned word of device memory."""
        found = self._decode(address)
        if found is None:
            self.aborts += 1
            return
        region, offset = found
        region.write(offset, value & ONES)

    def _at(self, place: BDF, offset: int) -> PciFunction | None:
        if offset % 4 or not 0 <= offset < CONFIG_BYTES:
            raise NetstackError(EINVAL, f"{place}: no word of configuration space at {offset:#x}")
        return self._functions.get(place)

    def _decode(self, address: int) -> tuple[Region, int] | None:
        if address % 4:
            raise NetstackError(EINVAL, f"memory address {address:#x} is not aligned to 4 bytes")
        for function in self._functions.values():
            if function.command & COMMAND_MEMORY:
                for bar, region in function.regions.items():
                    base = function.base(bar)
                    if base and base <= address < base + region.nbytes:
                        return region, address - base
        return None


assert (REG_ID, REG_CLASS, REG_SUBSYSTEM, REG_CAPABILITIES) == (0x00, 0x08, 0x2C, 0x34)
