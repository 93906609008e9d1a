"""Registers of the I354 Ethernet controller that the model and the driver use.

Source: Intel 82576 and I350 datasheets (register descriptions), and the paper, §5 and Fig. 2.
"""

from netstack.hw.regs import parse_table

__all__ = [
    "BAR_MSIX",
    "BAR_REGISTERS",
    "CLASS_ETHERNET",
    "CTRL_RST",
    "DCTL_ENABLE",
    "DEVICE_I354_SGMII",
    "GPIE_MULTI_VECTOR",
    "ICR_LSC",
    "ICR_RXT0",
    "ICR_TXDW",
    "IVAR_VALID",
    "MRQC_RSS",
    "QUEUES_MAX",
    "RAH_VALID",
    "RCTL_EN",
    "REGISTER_BYTES",
    "STATUS_LU",
    "TABLE",
    "TCTL_EN",
    "VECTORS_MAX",
    "VENDOR_INTEL",
    "ivar_field",
]

QUEUES_MAX = 8
VECTORS_MAX = 25

TABLE = parse_table("""
    CTRL       0x0000          RW   device control; bit 26 resets
    STATUS     0x0008          RO   device status; bit 1 link up
    RCTL       0x0100          RW   receive control; bit 1 enables
    TCTL       0x0400          RW   transmit control; bit 1 enables
    ICR        0x00C0          RC   interrupt cause; reading clears
    ICS        0x00C8          WO   interrupt cause set: software interrupt
    IMS        0x00D0          W1S  interrupt mask set: enable causes
    IMC        0x00D8          WO   interrupt mask clear: disable causes
    EICS       0x1520          WO   extended interrupt cause set: software interrupt
    EIMS       0x1524          W1S  extended interrupt mask set: enable vectors
    EIMC       0x1528          WO   extended interrupt mask clear: disable vectors
    EIAC       0x152C          RW   extended interrupt auto clear
    EIAM       0x1530          RW   extended interrupt auto mask
    EICR       0x1580          RC   extended interrupt cause
    GPIE       0x1514          RW   general purpose interrupt enable; bit 4 multiple vectors
    IVAR       0x1700  0x4x4   RW   vector of receive and transmit queues, two queues a register
    IVAR_MISC  0x1740          RW   vector of other causes, bits 15:8
    MPC        0x4010          RO   missed packets: no descriptor
    ROC        0x40AC          RO   received oversize frames
    GPRC       0x4074          RO   good packets received
    GPTC       0x4080          RO   good packets transmitted
    RAL        0x5400          RW   station address, low four bytes
    RAH        0x5404          RW   station address, high two bytes; bit 31 valid
    MRQC       0x5818          RW   multiple receive queues command; mode 2 is RSS
    RETA       0x5C00  0x4x32  RW   redirection table, four entries a register
    RSSRK      0x5C80  0x4x10  RW   RSS key, little-endian words
    RDBAL      0xC000  0x40x8  RW   receive ring base, low
    RDBAH      0xC004  0x40x8  RW   receive ring base, high
    RDLEN      0xC008  0x40x8  RW   receive ring length in bytes
    RXDCTL     0xC028  0x40x8  RW   receive queue control; bit 25 enables
    TDBAL      0xE000  0x40x8  RW   transmit ring base, low
    TDBAH      0xE004  0x40x8  RW   transmit ring base, high
    TDLEN      0xE008  0x40x8  RW   transmit ring length in bytes
    TXDCTL     0xE028  0x40x8  RW   transmit queue control; bit 25 enables
""")

CTRL_RST = 1 << 26
STATUS_LU = 1 << 1
RCTL_EN = 1 << 1
TCTL_EN = 1 << 1
DCTL_ENABLE = 1 << 25
RAH_VALID = 1 << 31
GPIE_MULTI_VECTOR = 1 << 4
IVAR_VALID = 0x80

# Causes of INTx and MSI: bits of ICR, ICS, IMS, IMC.
ICR_TXDW = 1 << 0  # a transmit descriptor was written back
ICR_LSC = 1 << 2  # link status change
ICR_RXT0 = 1 << 7  # a receive descriptor was written back

# In configuration space.
VENDOR_INTEL = 0x8086
DEVICE_I354_SGMII = 0x1F41
CLASS_ETHERNET = 0x020000
BAR_REGISTERS = 0
BAR_MSIX = 3
REGISTER_BYTES = 0x20000
MRQC_RSS = 2


def ivar_field(queue: int, is_tx: bool) -> tuple[int, int]:
    """Return (index of the IVAR register, shift of the 8-bit field) of a queue.

    Source: I350 datasheet: RX in bits 7:0 and 23:16 for the even and odd queue, TX in 15:8 and 31:24.
    """
    return queue // 2, 16 * (queue % 2) + 8 * is_tx
