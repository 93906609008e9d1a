"""MSI for drivers: the calls of the paper's appendix A (NetBSD pci_msi(9)).

Context: thread or control thread.
"""

from errno import EINVAL, ENODEV, ENOMEM
from typing import Any

from netstack.dev.pci import PciAttachArgs
from netstack.dev.pci_chipset import PciChipset
from netstack.dev.pci_handle import MsiVector, PciIntrHandle, disestablish, establish
from netstack.errors import NetstackError
from netstack.hw.pci_regs import CAP_MSI, MSI_CONTROL_ENABLE, MSI_MESSAGES_MAX
from netstack.machine.api import IntrHandle

__all__ = [
    "pci_msi_alloc",
    "pci_msi_alloc_exact",
    "pci_msi_count",
    "pci_msi_disestablish",
    "pci_msi_establish",
    "pci_msi_establish_xname",
    "pci_msi_release",
]

GRANTED_SHIFT = 20


def pci_msi_count(pa: PciAttachArgs) -> int:
    """Return how many messages the device offers; 0 without the capability."""
    offset = pa.find_capability(CAP_MSI)
    if offset is None:
        return 0
    offered = 1 << (pa.conf_read(offset) >> 17 & 7)
    return offered if offered <= MSI_MESSAGES_MAX else 0


def pci_msi_alloc(pa: PciAttachArgs, count: int) -> list[PciIntrHandle]:
    """Allocate up to ``count`` messages, a power of two; fewer when the device or the system has fewer.

    A shortage halves the count.
    Raises: NetstackError -- EINVAL, no power of two; ENODEV, no MSI here; ENOMEM, not one is left.
    """
    offered = _check(pa, count)
    count = min(count, offered)
    while count:
        try:
            return _alloc(pa, count)
        except NetstackError as error:
            if error.errno != ENOMEM:
                raise
            count //= 2
    raise NetstackError(ENOMEM, f"{pa.place}: no interrupt vector is left")


def pci_msi_alloc_exact(pa: PciAttachArgs, count: int) -> list[PciIntrHandle]:
    """Allocate ``count`` messages or none.

    Raises: NetstackError -- EINVAL, no power of two, or more than the device offers; ENODEV; ENOMEM.
    """
    offered = _check(pa, count)
    if count > offered:
        raise NetstackError(EINVAL, f"{pa.place} offers {offered} MSI messages, not {count}")
    return _alloc(pa, count)


def pci_msi_release(handles: list[PciIntrHandle]) -> None:
    """Give messages back; all of a device at once, as its list is emptied.  None may have a handler.

    Raises: NetstackError -- EINVAL, a handler is established, or it was released before.
    """
    check_releasable(handles, "msi")
    for ih in handles:
        ih.is_released = True
    if handles:
        first = handles[0]
        offset = first.pa.find_capability(CAP_MSI)
        if offset is not None:
            first.pa.conf_write(offset, first.pa.conf_read(offset) & ~MSI_CONTROL_ENABLE)
        assert first.place is not None
        first.pa.chipset.engine.intrs.unreserve(*first.place, len(handles))
        first.pa.chipset.give_vectors(len(handles))
    handles.clear()


def pci_msi_establish(pc: PciChipset, ih: PciIntrHandle, level: int, func: Any, arg: Any) -> IntrHandle:
    """Bind a handler; it is called as ``func(arg)`` at ``level``.  Returns: the cookie to disestablish."""
    return pci_msi_establish_xname(pc, ih, level, func, arg, ih.text)


def pci_msi_establish_xname(
    pc: PciChipset, ih: PciIntrHandle, level: int, func: Any, arg: Any, xname: str, **compiled: Any
) -> IntrHandle:
    """The same with a name for ``intrctl``."""
    return establish(ih, level, func, arg, xname, **compiled)


def pci_msi_disestablish(pc: PciChipset, cookie: IntrHandle) -> None:
    """Take the handler away; waits.  The message stays allocated."""
    disestablish(pc, cookie)


def check_releasable(handles: list[PciIntrHandle], kind: str) -> None:
    """Refuse handles that are in use, of another kind, or gone."""
    for ih in handles:
        if ih.kind != kind or ih.is_released:
            raise NetstackError(EINVAL, f"{ih.text}: not an {kind} handle, or released before")
        if ih.cookie is not None:
            raise NetstackError(EINVAL, f"{ih.text}: disestablish its handler first")


def _check(pa: PciAttachArgs, count: int) -> int:
    """Return how many messages the device offers; refuse what cannot be asked for."""
    if count <= 0 or count & (count - 1):
        raise NetstackError(EINVAL, f"{pa.place}: MSI comes in powers of two, not {count}")
    quirk = pa.chipset.quirk(pa.ident)
    if quirk.no_msi:
        raise NetstackError(ENODEV, f"{pa.place}: no MSI here ({quirk.part})")
    offered = pci_msi_count(pa)
    if not offered:
        raise NetstackError(ENODEV, f"{pa.place} has no MSI capability")
    return offered


def _alloc(pa: PciAttachArgs, count: int) -> list[PciIntrHandle]:
    offset = pa.find_capability(CAP_MSI)
    assert offset is not None
    device = pa.chipset.number("msi", pa.place)
    if not pa.chipset.take_vectors(count):
        raise NetstackError(ENOMEM, f"{pa.place}: {count} vectors are not left")
    try:
        place = pa.chipset.engine.intrs.reserve(count, f"msi{device}")
    except NetstackError:
        pa.chipset.give_vectors(count)
        raise
    granted = (count.bit_length() - 1) << GRANTED_SHIFT
    pa.conf_write(offset, pa.conf_read(offset) & ~(7 << GRANTED_SHIFT) & ~MSI_CONTROL_ENABLE | granted)
    handles = []
    for number in range(count):
        vector = MsiVector(pa, offset, number, count)
        ih = PciIntrHandle(pa, "msi", vector, number, f"msi{device} vec {number}")
        ih.place = place
        handles.append(ih)
    return handles
