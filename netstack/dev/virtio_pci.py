"""The PCI transport of virtio devices, as a driver uses it (VIRTIO 1.2, 3.1 and 4.1; NetBSD virtio_pci.c).

Context: thread or control thread; ``notify`` and ``isr`` any.
"""

from errno import EIO, ENXIO

from netstack.dev.pci import CAPABILITIES_MAX, PciAttachArgs, PciMemory
from netstack.dev.virtqueue import VirtQueue
from netstack.errors import NetstackError
from netstack.hw.pci_regs import REG_CAPABILITIES
from netstack.hw.vioif_regs import (
    CAP_VENDOR,
    CFG_COMMON,
    CFG_DEVICE,
    CFG_ISR,
    CFG_NOTIFY,
    COMMON,
    NO_VECTOR,
    VirtioStatus,
)

__all__ = ["VirtioPci"]

RESET_READS_MAX = 1000  # of the status, until it says that the reset is done


class VirtioPci:
    """One device.

    Raises: NetstackError(ENXIO) -- a structure is missing, or behind a register without address.
    """

    def __init__(self, pa: PciAttachArgs, name: str) -> None:
        self.pa = pa
        self.name = name
        pa.enable()
        self._places: dict[int, tuple[PciMemory, int]] = {}
        self._notify_stride = 0
        self._notify_at: dict[int, int] = {}
        self._find()
        self._common, self._common_at = self._places[CFG_COMMON]

    def _find(self) -> None:
        """Walk the capabilities; of each kind of structure the first counts."""
        pa, at = self.pa, self.pa.conf_read(REG_CAPABILITIES) & 0xFC
        for _ in range(CAPABILITIES_MAX):
            if at < 0x40:
                break
            word = pa.conf_read(at)
            kind, bar = word >> 24, pa.conf_read(at + 4) & 0xFF
            if word & 0xFF == CAP_VENDOR and kind not in self._places and bar < 6:
                memory = pa.map(bar)
                if memory is not None:
                    self._places[kind] = (memory, pa.conf_read(at + 8))
                    if kind == CFG_NOTIFY:
                        self._notify_stride = pa.conf_read(at + 16)
            at = word >> 8 & 0xFC
        missing = [kind for kind in (CFG_COMMON, CFG_NOTIFY, CFG_ISR, CFG_DEVICE) if kind not in self._places]
        if missing:
            raise NetstackError(ENXIO, f"{self.name}: no virtio structures of kind {missing} on {pa.place}")

    def read(self, field: str) -> int:
        """Return a field of the common structure."""
        at, nbytes = COMMON[field]
        word = self._common.read(self._common_at + (at & ~3))
        return word >> 8 * (at & 3) & (1 << 8 * nbytes) - 1

    def write(self, field: str, value: int) -> None:
        """Write one; what shares its word gets back what it holds."""
        at, nbytes = COMMON[field]
        word, shift = 0, 8 * (at & 3)
        if nbytes < 4:
            word = self._common.read(self._common_at + (at & ~3)) & ~((1 << 8 * nbytes) - 1 << shift)
        self._common.write(self._common_at + (at & ~3), word | value << shift)

    def reset(self) -> None:
        """Reset the device and wait until it says so.  NetstackError(EIO) when it never does."""
        self.write("device_status", 0)
        for _ in range(RESET_READS_MAX):
            if not self.read("device_status"):
                return
        raise NetstackError(EIO, f"{self.name}: the device does not come out of reset")

    def add_status(self, bits: VirtioStatus) -> None:
        """Report progress."""
        self.write("device_status", self.read("device_status") | bits)

    @property
    def needs_reset(self) -> bool:
        """Whether the device has given up."""
        return bool(self.read("device_status") & VirtioStatus.NEEDS_RESET)

    def negotiate(self, wanted: int) -> int:
        """Reset, and agree on those of the features wanted that are offered; return them.

        Raises: NetstackError(ENXIO) -- the device wants others.
        """
        self.reset()
        self.add_status(VirtioStatus.ACKNOWLEDGE)
        self.add_status(VirtioStatus.DRIVER)
        features = 0
        for select in (0, 1):
            self.write("device_feature_select", select)
            features |= self.read("device_feature") << 32 * select
        features &= wanted
        for select in (0, 1):
            self.write("driver_feature_select", select)
            self.write("driver_feature", features >> 32 * select & 0xFFFFFFFF)
        self.add_status(VirtioStatus.FEATURES_OK)
        if not self.read("device_status") & VirtioStatus.FEATURES_OK:
            self.add_status(VirtioStatus.FAILED)
            raise NetstackError(ENXIO, f"{self.name}: the device refuses the features {features:#x}")
        return features

    def set_config_vector(self, vector: int) -> None:
        """Signal changes of configuration by an MSI-X entry.  NetstackError(EIO): the device does not take it."""
        self._set_vector("config_msix_vector", vector)

    def setup_queue(self, index: int, queue: VirtQueue, vector: int) -> None:
        """Tell the device where a queue is, and enable it.

        Raises: NetstackError -- ENXIO, it has no such queue of that size; EIO, it does not take the vector.
        """
        self.write("queue_select", index)
        if self.read("queue_size") < queue.size:
            raise NetstackError(ENXIO, f"{queue.name}: the device has no queue {index} of {queue.size} descriptors")
        self.write("queue_size", queue.size)
        layout = queue.layout
        for area, address in (("desc", layout.desc), ("driver", layout.driver), ("device", layout.device)):
            self.write(f"queue_{area}_lo", address & 0xFFFFFFFF)
            self.write(f"queue_{area}_hi", address >> 32)
        self._set_vector("queue_msix_vector", vector)
        self._notify_at[index] = self.read("queue_notify_off") * self._notify_stride
        self.write("queue_enable", 1)

    def notify(self, index: int) -> None:
        """Tell the device that a queue has something new."""
        memory, base = self._places[CFG_NOTIFY]
        memory.write(base + self._notify_at[index], index)

    def isr(self) -> int:
        """Return the causes of an interrupt on the line, and take it back."""
        memory, at = self._places[CFG_ISR]
        return memory.read(at) & 0xFF

    def config(self, nbytes: int) -> bytes:
        """Return the first bytes of the device's own structure, all of one generation."""
        memory, base = self._places[CFG_DEVICE]
        while True:
            before = self.read("config_generation")
            words = [memory.read(base + at) for at in range(0, nbytes, 4)]
            if self.read("config_generation") == before:
                return b"".join(word.to_bytes(4, "little") for word in words)[:nbytes]

    def _set_vector(self, field: str, vector: int) -> None:
        self.write(field, vector)
        if vector != NO_VECTOR and self.read(field) != vector:
            raise NetstackError(EIO, f"{self.name}: the device has no resources for vector {vector}")
