"""The host's side of the bus: a bridge, places for devices, addresses for their memory, interrupt lines.

What firmware does on a PC before the kernel starts.  Functions get places 1, 2, 3 ... on bus 0, and on
buses 1, 2 ... when it is full, as if behind bridges that are not modelled; their registers get addresses
from ``MEMORY_BASE`` up; pins go to four lines in turn, as slots of a board are wired: pin A of neighbours
lands on different lines.
"""

from errno import EBUSY

from netstack._fast.intr import IntrController
from netstack.errors import NetstackError
from netstack.hw.intx import IntxFunction, IntxLine
from netstack.hw.pci import PciBus, PciFunction
from netstack.hw.pci_regs import BDF, COMMAND_MASTER, COMMAND_MEMORY, REG_BAR, REG_COMMAND

__all__ = ["PciHost"]

HOST_BRIDGE = BDF(0, 0, 0)
MEMORY_BASE = 0xE0000000
LINES = (16, 17, 18, 19)  # of the first I/O APIC, above the 16 of the old controllers
BUSES, DEVICES_A_BUS = 8, 31


class PciHost:
    """The buses of one machine.

    Args: bridge -- (vendor, device) of the host bridge: quirk tables go by it.
    """

    def __init__(self, controller: IntrController, bridge: tuple[int, int] = (0x8086, 0x1F00)) -> None:
        self.bus = PciBus()
        self.lines = {number: IntxLine(controller, number) for number in LINES}
        self.bus.add(HOST_BRIDGE, PciFunction(*bridge, 0x060000, pin=0))
        self._wired: dict[BDF, tuple[IntxLine, IntxFunction]] = {}
        self._next_address = MEMORY_BASE

    def plug(self, function: PciFunction, intx: IntxFunction | None = None) -> BDF:
        """Give a function a place, addresses and its line.  NetstackError(EBUSY): no place is free."""
        places = (BDF(bus, dev, 0) for bus in range(BUSES) for dev in range(1, DEVICES_A_BUS + 1))
        place = next((place for place in places if self.bus.function(place) is None), None)
        if place is None:
            raise NetstackError(EBUSY, f"the buses are full: {BUSES * DEVICES_A_BUS} devices")
        self.bus.add(place, function)
        for bar, region in function.regions.items():
            base = -(-self._next_address // region.nbytes) * region.nbytes
            self._next_address = base + region.nbytes
            self.bus.config_write(place, REG_BAR + 4 * bar, base)
        self.bus.config_write(place, REG_COMMAND, COMMAND_MEMORY | COMMAND_MASTER)
        if function.pin and intx is not None:
            line = self.lines[LINES[(place.dev + function.pin - 1) % len(LINES)]]
            function.line = line.number
            line.attach(intx)
            self._wired[place] = (line, intx)
        return place

    def unplug(self, place: BDF) -> None:
        """Take a function out."""
        if place in self._wired:
            line, intx = self._wired.pop(place)
            line.detach(intx)
        self.bus.remove(place)
