"""INTx, and interrupts of whatever type there is, in one call (paper §5.2; NetBSD pci_intr(9)).

``pci_intr_alloc`` tries MSI-X, MSI and INTx in this order.  A driver whose ``establish`` fails releases
what it got and asks again with the next type as the ceiling: ``pci_intr_next_type``.

Context: thread or control thread.
"""

from errno import EINVAL, ENODEV
from typing import Any, Literal

from netstack.dev.pci import PciAttachArgs
from netstack.dev.pci_chipset import PciChipset
from netstack.dev.pci_handle import PciIntrHandle, disestablish, establish
from netstack.dev.pci_msi import pci_msi_alloc_exact, pci_msi_count, pci_msi_release
from netstack.dev.pci_msix import MsixEntry, pci_msix_alloc_exact, pci_msix_count, pci_msix_release
from netstack.errors import NetstackError
from netstack.machine.api import IntrHandle

__all__ = [
    "TYPES",
    "IntrType",
    "pci_intr_alloc",
    "pci_intr_disestablish",
    "pci_intr_establish_xname",
    "pci_intr_map",
    "pci_intr_next_type",
    "pci_intr_release",
    "pci_intr_setattr",
    "pci_intr_string",
    "pci_intr_type",
    "pci_intx_alloc",
]

IntrType = Literal["msix", "msi", "intx"]
TYPES: tuple[IntrType, ...] = ("msix", "msi", "intx")  # best first


def pci_intr_map(pa: PciAttachArgs) -> PciIntrHandle:
    """Return the handle of the function's line.

    Raises: NetstackError -- ENODEV, it has no pin.
    """
    if not pa.pin or pa.line is None:
        raise NetstackError(ENODEV, f"{pa.place} has no interrupt pin")
    return PciIntrHandle(pa, "intx", pa.line, 0, f"ioapic0 pin {pa.line_number}")


def pci_intx_alloc(pa: PciAttachArgs) -> list[PciIntrHandle]:
    """The line as a list of one: for symmetry with the other types."""
    return [pci_intr_map(pa)]


def pci_intr_alloc(
    pa: PciAttachArgs, counts: dict[IntrType, int] | None = None, max_type: IntrType = "msix"
) -> list[PciIntrHandle]:
    """Allocate interrupts of the best type there is.

    Args:    counts -- how many of each type; 0: do not try, -1: as many as the device has.  None: one MSI,
             else the line.  On success the types not obtained are set to 0.
             max_type -- the best type to try.
    Raises:  NetstackError -- EINVAL, unknown type, or more than one line; else what the last type raised.
    """
    wanted: dict[IntrType, int] = {"msi": 1, "intx": 1} if counts is None else counts
    if max_type not in TYPES or not set(wanted) <= set(TYPES):
        raise NetstackError(EINVAL, f"interrupt types are {', '.join(TYPES)}")
    if wanted.get("intx", 0) > 1:
        raise NetstackError(EINVAL, f"{pa.place}: a function has one line, not {wanted['intx']}")
    problem = NetstackError(ENODEV, f"{pa.place}: no interrupt was asked for")
    for kind in TYPES[TYPES.index(max_type) :]:
        count = wanted.get(kind, 0)
        if not count:
            continue
        try:
            handles = _alloc(pa, kind, count)
        except NetstackError as error:
            problem = error
            continue
        if counts is not None:
            counts.update({each: len(handles) if each == kind else 0 for each in TYPES})
        return handles
    raise problem


def pci_intr_next_type(kind: IntrType) -> IntrType | None:
    """Return the type to fall back to; None after INTx."""
    at = TYPES.index(kind) + 1
    return TYPES[at] if at < len(TYPES) else None


def pci_intr_type(ih: PciIntrHandle) -> str:
    """Return "msix", "msi" or "intx"."""
    return ih.kind


def pci_intr_string(ih: PciIntrHandle) -> str:
    """Return the interrupt as ``intrctl`` shows it: "msix0 vec 3", "ioapic0 pin 17"."""
    return ih.text


def pci_intr_setattr(ih: PciIntrHandle, mpsafe: bool) -> None:
    """Say whether the handler is MP-safe; before it is established.  NetstackError(EINVAL) after."""
    if ih.cookie is not None:
        raise NetstackError(EINVAL, f"{ih.text}: set attributes before the handler is established")
    ih.is_mpsafe = mpsafe


def pci_intr_establish_xname(
    pc: PciChipset, ih: PciIntrHandle, level: int, func: Any, arg: Any, xname: str, **compiled: Any
) -> IntrHandle:
    """Bind a handler to an interrupt of any type."""
    return establish(ih, level, func, arg, xname, **compiled)


def pci_intr_disestablish(pc: PciChipset, cookie: IntrHandle) -> None:
    """Take it away; waits."""
    disestablish(pc, cookie)


def pci_intr_release(handles: list[PciIntrHandle]) -> None:
    """Give interrupts of one type back.

    Raises: NetstackError -- EINVAL, one has a handler, or was released before.
    """
    if not handles:
        return
    if handles[0].kind == "msix":
        pci_msix_release(handles)
    elif handles[0].kind == "msi":
        pci_msi_release(handles)
    else:
        if handles[0].cookie is not None or handles[0].is_released:
            raise NetstackError(EINVAL, f"{handles[0].text}: in use, or released before")
        handles[0].is_released = True
        handles.clear()


def _alloc(pa: PciAttachArgs, kind: IntrType, count: int) -> list[PciIntrHandle]:
    if kind == "msix":
        entries = [MsixEntry(i) for i in range(count if count > 0 else pci_msix_count(pa))]
        pci_msix_alloc_exact(pa, entries)
        return [entry.me_handle for entry in entries if entry.me_handle is not None]
    if kind == "msi":
        return pci_msi_alloc_exact(pa, count if count > 0 else max(pci_msi_count(pa), 1))
    return pci_intx_alloc(pa)
