"""What work costs in virtual time, and why; read by ``machine/virtual.py`` only.

The numbers are nanoseconds on the machine of the paper's section 6.1, an Atom C2758 (2.4 GHz, eight
Silvermont cores, pairs of which share an L2 and a bus interface) with four I354 ports.  Three cells
of Table 3, 74-byte frames on the NET_MPSAFE kernel, are fitted; every other cell is a prediction:

  1 core, 329.0 kfps    the sum of the steps of one frame, about 3.04 us (7300 cycles) when the CPU
                        is saturated; how it splits is an estimate from what the steps touch
  2 cores, 527.7 kfps   ``line_ns``: CPUs of different pairs, so the common lines are all they share
  4 cores, 705.4 kfps   ``sibling``: Table 2 places these on two pairs

Nothing here knows a result.  That a loop over the ring forwards less than one frame per interrupt
follows from order and queues (paper §6.2), and what eight cores reach from the terms above.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from errno import EINVAL
from typing import NamedTuple

from netstack.errors import NetstackError

__all__ = ["C2758", "STEPS", "Cost", "Costs"]


class Cost(NamedTuple):
    """Time of one step: ``ns`` a unit and ``byte_ns`` a byte; ``why`` is the explanation."""

    ns: float
    why: str
    byte_ns: float = 0.0


# By the name that Engine.charge gets.  Frames have no cost per byte where the NIC writes memory by
# itself: the CPU passes descriptors, and Table 3 shows the same rate at 74 and at 384 bytes.
STEPS: dict[str, Cost] = {
    # Interrupts
    "hardintr": Cost(640, "interrupt entry and exit: flush, save, vector, EOI; 1500 cycles"),
    "intx": Cost(900, "an INTx handler reads the cause register (ICR) over PCIe; MSI-X does not"),
    "softint": Cost(360, "dispatch of a fast softint: to its stack, to the handler, and back"),
    "splx": Cost(20, "lowering the SPL and looking for what was held off"),
    # Frames
    "rx": Cost(780, "a receive descriptor: its line misses, new mbuf, DMA map, refill, tail"),
    "bridge_input": Cost(260, "the frame's header line, group tests, member of the interface"),
    "bridge_forward": Cost(670, "learn and look up: two hash chains, each a likely miss; member"),
    "bridge_broadcast": Cost(420, "one copy of a flooded frame: header mbuf, reference"),
    "if_transmit": Cost(290, "choice of the queue, if_snd in and out, counters"),
    "tx": Cost(460, "a transmit descriptor: context, DMA map, tail register write"),
    "reclaim": Cost(240, "a sent descriptor back: DMA unmap, mbuf to its magazine"),
    "ether_input": Cost(360, "demultiplexing of a frame for this host"),
    "ether_output": Cost(500, "building the header of a frame of this host"),
    "copy": Cost(60, "a copy through the CPU, where a port has no DMA", 0.25),
    # Locks and threads
    "lock": Cost(35, "a free lock taken and dropped: locked instructions on a cached line"),
    "lock_handoff": Cost(250, "a lock passed on: its line moves, the spinning CPU sees it"),
    "switch": Cost(2200, "a full switch between threads of the kernel"),
    "callout": Cost(220, "one callout taken off the wheel"),
}


@dataclass(frozen=True)
class Costs:
    """A cost model: the steps, and two terms for what CPUs share."""

    steps: Mapping[str, Cost] = field(default_factory=lambda: dict(STEPS))

    # CPUs that forward through one bridge write some lines in common (member references, counters,
    # pool).  A CPU that was not the last to write them waits for them to come: this long, one mover
    # at a time.  The paper's kernel writes them for each frame, so a CPU that forwards several in a
    # row while others do loses and gets them for each; a kernel that works by the vector, once.
    line_ns: float = 840.0
    is_line_per_frame: bool = True
    line_step: str = "bridge_forward"  # the step that writes them

    # Everything takes so much longer while the other core of the pair (2k, 2k+1) is busy: L2, bus.
    # A core counts as busy this long after it last worked.
    sibling: float = 1.57
    sibling_window_ns: int = 20_000

    def with_steps(self, **ns: float) -> "Costs":
        """Return a copy with other times (ns) for some steps.

        Raises: NetstackError -- EINVAL, no such step.
        """
        steps = dict(self.steps)
        for name, value in ns.items():
            if name not in steps:
                raise NetstackError(EINVAL, f"no step {name!r}; one of {', '.join(steps)}")
            steps[name] = steps[name]._replace(ns=value)
        return replace(self, steps=steps)

    def without_sharing(self) -> "Costs":
        """Return a copy in which CPUs do not slow each other down."""
        return replace(self, line_ns=0.0, sibling=1.0)


C2758 = Costs()
