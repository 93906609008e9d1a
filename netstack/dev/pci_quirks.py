"""Host bridges and devices that must not use MSI or MSI-X (paper §5.2).

Rows are (vendor, device); None as the device stands for all of a vendor.  Facts: quirk tables of FreeBSD
(sys/dev/pci/pci.c) and NetBSD (if_wm.c, pci_quirks.c), which name parts whose message writes get lost.
"""

from typing import NamedTuple

__all__ = ["BRIDGE_QUIRKS", "DEVICE_QUIRKS", "Quirk", "quirk_of"]

INTEL = 0x8086
SERVERWORKS = 0x1166


class Quirk(NamedTuple):
    """What does not work, and what part it is."""

    no_msi: bool
    no_msix: bool
    part: str


BRIDGE_QUIRKS: dict[tuple[int, int | None], Quirk] = {
    (SERVERWORKS, 0x0009): Quirk(True, True, "ServerWorks CNB20-LE/HE"),
    (SERVERWORKS, 0x0014): Quirk(True, True, "ServerWorks CMIC-SL"),
    (INTEL, 0x2540): Quirk(True, True, "Intel E7500"),
    (INTEL, 0x254C): Quirk(True, True, "Intel E7501"),
    (INTEL, 0x2550): Quirk(True, True, "Intel E7505"),
    (INTEL, 0x1A30): Quirk(True, True, "Intel 82845"),
    (INTEL, 0x3580): Quirk(True, True, "Intel 82855"),
    (INTEL, 0x2570): Quirk(True, True, "Intel 82865"),
    (INTEL, 0x2578): Quirk(True, True, "Intel 82875"),
    (0x10DE, 0x0369): Quirk(False, True, "a bridge that forwards MSI but not MSI-X"),
}

DEVICE_QUIRKS: dict[tuple[int, int | None], Quirk] = {
    (INTEL, 0x100E): Quirk(True, True, "Intel 82540EM"),
    (INTEL, 0x100F): Quirk(True, True, "Intel 82545EM"),
    (INTEL, 0x1010): Quirk(True, True, "Intel 82546EB"),
    (INTEL, 0x1013): Quirk(True, True, "Intel 82541EI"),
    (INTEL, 0x1008): Quirk(True, True, "Intel 82544EI"),
    (INTEL, 0x105E): Quirk(True, False, "Intel 82571EB"),
    (INTEL, 0x107D): Quirk(True, False, "Intel 82572EI"),
    (INTEL, 0x150C): Quirk(False, True, "Intel 82583V: advertises MSI-X, must not use it"),
}

NONE = Quirk(False, False, "")


def quirk_of(table: dict[tuple[int, int | None], Quirk], ident: tuple[int, int]) -> Quirk:
    """Return the row of a part, or one that forbids nothing."""
    return table.get(ident) or table.get((ident[0], None)) or NONE
