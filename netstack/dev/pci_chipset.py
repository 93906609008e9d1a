"""What the system keeps for interrupts of PCI devices (NetBSD pci_chipset_tag_t, x86 pci_msi_machdep.c).

Numbers of devices with MSI and MSI-X ("msi0", "msix3"), kept when a device comes back to its place; how
many vectors are left; which host bridge there is; what the operator has switched off.
"""

from errno import EINVAL
from typing import Any

from netstack.dev.pci_quirks import BRIDGE_QUIRKS, DEVICE_QUIRKS, Quirk, quirk_of
from netstack.errors import NetstackError
from netstack.hw.pci_regs import BDF
from netstack.machine.api import Engine, IntrHandle

__all__ = ["DEVICES_MAX", "PciChipset"]

DEVICES_MAX = 256  # devices with MSI or MSI-X; NetBSD's table
VECTORS_MAX = 64 * 200  # what the CPUs have together, less what the system keeps


class PciChipset:
    """The interrupt side of one machine's bus.

    Args: bridge -- (vendor, device) of the host bridge.   vectors -- how many messages may be in use.
          use_msi, use_msix -- the operator's switches.
    """

    def __init__(
        self,
        engine: Engine,
        bridge: tuple[int, int] = (0, 0),
        *,
        vectors: int = VECTORS_MAX,
        use_msi: bool = True,
        use_msix: bool = True,
    ) -> None:
        self.engine = engine
        self.bridge = quirk_of(BRIDGE_QUIRKS, bridge)
        self.use_msi = use_msi
        self.use_msix = use_msix
        self.vectors_free = vectors
        self._numbers: dict[str, dict[BDF, int]] = {"msi": {}, "msix": {}}
        self.handles: dict[IntrHandle, Any] = {}  # established: cookie to handle
        self._entries: dict[BDF, int] = {}  # MSI-X entries allocated, by device

    def quirk(self, ident: tuple[int, int]) -> Quirk:
        """Return what a device must not use: by the part, the bridge and the operator."""
        device = quirk_of(DEVICE_QUIRKS, ident)
        no_msi = device.no_msi or self.bridge.no_msi or not self.use_msi
        no_msix = device.no_msix or self.bridge.no_msix or not self.use_msix
        return Quirk(no_msi, no_msix, device.part or self.bridge.part or "switched off")

    def number(self, kind: str, place: BDF) -> int:
        """Return the N of "msiN" or "msixN" for a device; the same when it comes back.

        Raises: NetstackError -- EINVAL, there have been 256 devices of that kind.
        """
        numbers = self._numbers[kind]
        if place not in numbers:
            if len(numbers) >= DEVICES_MAX:
                raise NetstackError(EINVAL, f"{kind}: there are {DEVICES_MAX} devices already")
            numbers[place] = len(numbers)
        return numbers[place]

    def take_vectors(self, count: int) -> bool:
        """Set messages aside; False when there are not so many left."""
        if count > self.vectors_free:
            return False
        self.vectors_free -= count
        return True

    def give_vectors(self, count: int) -> None:
        """Take messages back."""
        self.vectors_free += count

    def remember_entries(self, place: BDF, count: int) -> None:
        """Count MSI-X entries that a device has."""
        self._entries[place] = self._entries.get(place, 0) + count

    def forget_entries(self, place: BDF, count: int) -> int:
        """Count some back; return how many it has left."""
        self._entries[place] -= count
        return self._entries[place]
