"""Registers of a device by name, through its mapped memory: what a driver has instead of the model."""

from netstack.dev.pci import PciMemory
from netstack.hw.regs import Register

__all__ = ["DeviceRegs"]


class DeviceRegs:
    """``offset`` by the datasheet's table, ``read`` and ``write`` on the bus."""

    def __init__(self, memory: PciMemory, table: dict[str, Register]) -> None:
        self._table = table
        self.read = memory.read
        self.write = memory.write

    def offset(self, name: str, index: int = 0) -> int:
        """Return the byte offset of a register; IndexError beyond its array."""
        register = self._table[name]
        if not 0 <= index < register.instances:
            raise IndexError(f"{name} has {register.instances} instances, not {index}")
        return register.offset + index * register.stride
