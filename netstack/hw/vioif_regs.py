"""Registers and numbers of a virtio network device on PCI that the model and the driver use.

A field of the common structure is (offset, bytes).  The bus of this machine makes accesses of 32 bits, so a
field that is smaller is written together with its neighbours, which get back what they hold: by the
specification that changes nothing in this structure.

Source: VIRTIO 1.2, 4.1.4 (structures on PCI), 2.1 (status), 5.1 (network device), 6 (reserved features).
"""

from enum import IntFlag

__all__ = [
    "BAR_MSIX",
    "BAR_VIRTIO",
    "CAP_BYTES",
    "CAP_VENDOR",
    "CFG_COMMON",
    "CFG_DEVICE",
    "CFG_ISR",
    "CFG_NOTIFY",
    "CLASS_ETHERNET",
    "COMMON",
    "CONFIG_BYTES",
    "CTRL_MQ",
    "CTRL_MQ_PAIRS_MAX",
    "CTRL_MQ_PAIRS_SET",
    "CTRL_OK",
    "DEVICE_NET",
    "HEADER",
    "HEADER_BYTES",
    "ISR_CONFIG",
    "ISR_QUEUE",
    "NET_LINK_UP",
    "NOTIFY_STRIDE",
    "NO_VECTOR",
    "STRUCTURES",
    "VENDOR_VIRTIO",
    "VIRTIO_BYTES",
    "VIRTIO_NET_F",
    "VirtioStatus",
    "rx_index",
    "tx_index",
]

VENDOR_VIRTIO = 0x1AF4
DEVICE_NET = 0x1041  # 0x1040 + 1, a network device
CLASS_ETHERNET = 0x020000

CAP_VENDOR = 0x09
CAP_BYTES = 16  # 20 for the notification structure, which has its stride behind
CFG_COMMON, CFG_NOTIFY, CFG_ISR, CFG_DEVICE = 1, 2, 3, 4
BAR_MSIX, BAR_VIRTIO = 1, 4
VIRTIO_BYTES = 0x4000
CONFIG_BYTES = 12
NOTIFY_STRIDE = 4
STRUCTURES = {  # where this device has them: offset behind BAR_VIRTIO, bytes
    CFG_COMMON: (0x0000, 0x38),
    CFG_NOTIFY: (0x3000, 0x1000),
    CFG_ISR: (0x1000, 4),
    CFG_DEVICE: (0x2000, CONFIG_BYTES),
}

COMMON = {
    "device_feature_select": (0x00, 4),
    "device_feature": (0x04, 4),
    "driver_feature_select": (0x08, 4),
    "driver_feature": (0x0C, 4),
    "config_msix_vector": (0x10, 2),
    "num_queues": (0x12, 2),
    "device_status": (0x14, 1),
    "config_generation": (0x15, 1),
    "queue_select": (0x16, 2),
    "queue_size": (0x18, 2),
    "queue_msix_vector": (0x1A, 2),
    "queue_enable": (0x1C, 2),
    "queue_notify_off": (0x1E, 2),
    "queue_desc_lo": (0x20, 4),
    "queue_desc_hi": (0x24, 4),
    "queue_driver_lo": (0x28, 4),
    "queue_driver_hi": (0x2C, 4),
    "queue_device_lo": (0x30, 4),
    "queue_device_hi": (0x34, 4),
}
NO_VECTOR = 0xFFFF


class VirtioStatus(IntFlag):
    """Bits of device_status."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


class VIRTIO_NET_F(IntFlag):
    """Features, by bit; those of the transport among them."""

    MAC = 1 << 5
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    MQ = 1 << 22
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32


ISR_QUEUE, ISR_CONFIG = 1, 2
NET_LINK_UP = 1

HEADER = "<BBHHHHH"  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
HEADER_BYTES = 12

CTRL_MQ, CTRL_MQ_PAIRS_SET, CTRL_OK = 4, 0, 0
CTRL_MQ_PAIRS_MAX = 0x8000


def rx_index(pair: int) -> int:
    """Return the number of a pair's receive queue."""
    return 2 * pair


def tx_index(pair: int) -> int:
    """Return the number of a pair's transmit queue; the control queue comes after the last pair."""
    return 2 * pair + 1
