"""Numbers of PCI configuration space, and of messages on x86, that models and drivers share.

Source: PCI Local Bus Specification 3.0, chapter 6 and appendix H (class codes); Intel SDM vol. 3, 10.11
(message address and data).
"""

__all__ = [
    "BAR_COUNT",
    "BDF",
    "CAP_EXPRESS",
    "CAP_MSI",
    "CAP_MSIX",
    "CAP_PCIX",
    "COMMAND_INTX_DISABLE",
    "COMMAND_MASTER",
    "COMMAND_MEMORY",
    "CONFIG_BYTES",
    "MSIX_CONTROL_ENABLE",
    "MSIX_CONTROL_MASK",
    "MSIX_ENTRIES_MAX",
    "MSIX_ENTRY_BYTES",
    "MSIX_ENTRY_MASK",
    "MSI_ADDRESS",
    "MSI_CONTROL_64",
    "MSI_CONTROL_ENABLE",
    "MSI_CONTROL_MASKABLE",
    "MSI_MESSAGES_MAX",
    "REG_BAR",
    "REG_CAPABILITIES",
    "REG_CLASS",
    "REG_COMMAND",
    "REG_ID",
    "REG_INTERRUPT",
    "REG_SUBSYSTEM",
    "STATUS_CAPABILITIES",
    "STATUS_INTX",
    "message_address",
    "message_cpu",
]

from typing import NamedTuple


class BDF(NamedTuple):
    """Place of a function: bus, device, function."""

    bus: int
    dev: int
    fun: int

    def __str__(self) -> str:
        return f"{self.bus:02x}:{self.dev:02x}.{self.fun}"


CONFIG_BYTES = 256
BAR_COUNT = 6

# Registers of the header, byte offsets.
REG_ID = 0x00  # vendor 15:0, device 31:16
REG_COMMAND = 0x04  # command 15:0, status 31:16
REG_CLASS = 0x08  # revision 7:0, class code 31:8
REG_BAR = 0x10  # six of four bytes
REG_SUBSYSTEM = 0x2C
REG_CAPABILITIES = 0x34  # offset of the first capability
REG_INTERRUPT = 0x3C  # line 7:0, pin 15:8 (1 is INTA#, 0 none)

COMMAND_MEMORY = 1 << 1
COMMAND_MASTER = 1 << 2
COMMAND_INTX_DISABLE = 1 << 10
STATUS_INTX = 1 << 19  # bits of the status half, in the 32-bit register
STATUS_CAPABILITIES = 1 << 20

CAP_MSI = 0x05
CAP_PCIX = 0x07
CAP_EXPRESS = 0x10
CAP_MSIX = 0x11

# MSI message control, in the upper half of the capability's first word.
MSI_CONTROL_ENABLE = 1 << 16
MSI_CONTROL_64 = 1 << 23
MSI_CONTROL_MASKABLE = 1 << 24
MSI_MESSAGES_MAX = 32

# MSI-X message control, likewise.
MSIX_CONTROL_MASK = 1 << 30
MSIX_CONTROL_ENABLE = 1 << 31
MSIX_ENTRIES_MAX = 2048
MSIX_ENTRY_BYTES = 16
MSIX_ENTRY_MASK = 1 << 0  # of the vector control word

MSI_ADDRESS = 0xFEE00000


def message_address(cpu: int) -> int:
    """Return the address that a message for ``cpu`` is written to: destination in bits 19:12."""
    return MSI_ADDRESS | cpu << 12


def message_cpu(address: int) -> int | None:
    """Return the CPU that a message address names; None when it is no fixed, physical message address."""
    if address & ~0xFFFFF != MSI_ADDRESS or address & 0xFFF:
        return None
    return address >> 12 & 0xFF
