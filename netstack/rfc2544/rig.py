"""What one point of a run is: the kernel, the cores, and where each interrupt goes (paper §6.1).

Data and two small rules; builds nothing.  ``dut.py`` makes the machine.

On the virtual clock the rig is the paper's Figure 3: eight CPUs, ``wm0`` and ``wm2`` of an I354
with four receive and four transmit queues each, wires of 1 Gb/s.  NET_MPSAFE takes one frame per
interrupt (MSI-X handler); GENERIC has one line per port, whose handler loops until no cause is left
(INTx), on CPU 0.  On the wall clock a rig has as many CPUs as cores, receive queue ``i`` of both NICs on
CPU ``i`` (beyond 8 cores one NIC for each half of them), and no wire rate: what limits is this
host.
"""

from dataclasses import dataclass

from netstack.dev.pci_intr import IntrType
from netstack.params import WM_QUEUES_MAX

__all__ = [
    "CORES_MAX",
    "GENERIC",
    "KERNELS",
    "NET_MPSAFE",
    "TABLE_2",
    "TABLE_3_KFPS",
    "Placement",
    "Setup",
    "place",
]

GENERIC = "GENERIC"
NET_MPSAFE = "NET_MPSAFE"
KERNELS = (GENERIC, NET_MPSAFE)

# Each of the two NICs can keep as many CPUs busy as it has queues.
CORES_MAX = 2 * WM_QUEUES_MAX

PAPER_CPUS = 8
PAPER_QUEUES = 4

# Paper Table 2: cores -> the CPU of receive queues 0 to 3 of wm0 and of wm2.
TABLE_2: dict[int, dict[str, tuple[int, ...]]] = {
    1: {"wm0": (4, 4, 4, 4), "wm2": (4, 4, 4, 4)},
    2: {"wm0": (4, 4, 4, 4), "wm2": (0, 0, 0, 0)},
    4: {"wm0": (4, 5, 4, 5), "wm2": (0, 1, 0, 1)},
    8: {"wm0": (4, 5, 6, 7), "wm2": (0, 1, 2, 3)},
}

# Paper Table 3, kilo frames per second: size -> GENERIC, then NET_MPSAFE on 1, 2, 4 and 8 cores.
TABLE_3_KFPS: dict[int, tuple[float, float, float, float, float]] = {
    74: (99.3, 329.0, 527.7, 705.4, 1147.1),
    128: (81.3, 327.7, 528.2, 704.8, 1157.6),
    192: (118.9, 333.5, 530.4, 706.6, 1142.9),
    256: (89.1, 331.0, 530.8, 700.3, 905.7),
    384: (115.1, 332.1, 528.5, 618.8, 613.9),
    512: (109.3, 329.0, 469.0, 469.9, 469.9),
    768: (110.3, 316.9, 317.2, 317.2, 317.2),
    1024: (119.9, 239.4, 239.4, 239.4, 239.4),
    1280: (104.7, 192.3, 192.3, 192.3, 192.3),
    1408: (104.7, 175.0, 175.0, 175.0, 175.0),
    1518: (108.2, 162.5, 162.5, 162.5, 162.5),
}


@dataclass(frozen=True)
class Setup:
    """One configuration of the device under test; frame sizes vary within it.

    Args: frame -- driver frame, "softint" or "classic".
          drain -- frames one activation takes: "one", "ring" or a number.
          addresses -- stations on each side.
          path -- "compiled": the run loop; "stages": the Python layers; None: what the clock has.
    """

    clock: str
    kernel: str
    cores: int
    frame: str
    drain: str | int
    seed: int
    addresses: int
    path: str | None = None

    @property
    def intr(self) -> IntrType:
        """How the NICs signal: the paper's GENERIC kernel knew lines only (§6.2).

        On the wall clock both kernels use MSI-X, so that what differs is the locks.
        """
        return "intx" if self.clock == "virtual" and self.kernel == GENERIC else "msix"


@dataclass(frozen=True)
class Placement:
    """CPUs and queues of a rig: ``rx[name][queue]`` is the CPU of that interface's receive queue.

    ``tx`` likewise: the transmit queue of an interface is bound to the CPU that runs bridge_forward
    for the other one, so that mbufs stay on their CPU (paper §6.1).
    """

    ncpu: int
    rx: dict[str, tuple[int, ...]]
    tx: dict[str, tuple[int, ...]]


def place(setup: Setup) -> Placement:
    """Say where each interrupt of the rig goes."""
    if setup.clock == "wall":
        return _place_wall(setup)
    if setup.kernel == GENERIC:
        return Placement(PAPER_CPUS, {"wm0": (0,), "wm2": (0,)}, {"wm0": (0,), "wm2": (0,)})
    rx = TABLE_2.get(setup.cores) or paper_rule(setup.cores)
    tx = {"wm0": rx["wm2"], "wm2": rx["wm0"]}
    return Placement(rig_cpus(setup.cores), rx, tx)


def rig_cpus(cores: int) -> int:
    """Return the CPUs of a virtual rig: eight, or an even number that has these cores."""
    return max(PAPER_CPUS, cores + cores % 2)


def paper_rule(cores: int) -> dict[str, tuple[int, ...]]:
    """Extend Table 2 to 1..16 cores: wm0 on the upper half of the CPUs, wm2 on the lower.

    With one core both share the first CPU of the upper half; with an odd number wm0 has one more.
    """
    upper = rig_cpus(cores) // 2
    queue_count = max(PAPER_QUEUES, (cores + 1) // 2)
    if cores == 1:
        return {name: (upper,) * queue_count for name in ("wm0", "wm2")}
    spread = {"wm0": (upper, (cores + 1) // 2), "wm2": (0, cores // 2)}
    return {
        name: tuple(first + queue % count for queue in range(queue_count)) for name, (first, count) in spread.items()
    }


def _place_wall(setup: Setup) -> Placement:
    cores = setup.cores
    if setup.kernel == GENERIC:
        cpus: dict[str, tuple[int, ...]] = {"wm0": (0,), "wm1": (1 % cores,)}
        return Placement(cores, cpus, {"wm0": cpus["wm1"], "wm1": cpus["wm0"]})
    if cores <= WM_QUEUES_MAX:
        each = tuple(range(cores))
        return Placement(cores, {"wm0": each, "wm1": each}, {"wm0": each, "wm1": each})
    half = (cores + 1) // 2
    lower, upper = tuple(range(half)), tuple(range(half, cores))
    return Placement(cores, {"wm0": lower, "wm1": upper}, {"wm0": upper, "wm1": lower})
