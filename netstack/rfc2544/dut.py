"""The device under test: a machine with two bridged NICs, and trials of one offered rate.

The far ends of both wires send at once; what comes out is counted at the far ends.  A trial ends
when the machine is idle again, so a frame is forwarded or lost, never in between; every lost frame
must be in a counter, or the trial raises.  Stations are learned before the first trial
(RFC 2544 section 23) and stay known.

On the wall clock a CPU's loop runs the generators of its own queues.  What falls due while the CPU
does not get round to it, beyond one receive ring, was never offered: it counts as late, and a trial
with too many of those fails; or as paused, when the loop was not run at all because the host had
other work for its processor.

Uses the machine's public face, and two compiled objects that a NIC model takes: the generator of
frames, and the list of receive engines that a CPU's loop runs.
"""

from collections import Counter
from errno import EIO
from typing import TYPE_CHECKING, NamedTuple

from netstack import Machine
from netstack._fast import chain
from netstack._fast.wire import Generator, HwRxQueue
from netstack.errors import NetstackError
from netstack.rfc2544.rig import Placement, Setup, place
from netstack.rfc2544.search import Trial
from netstack.rfc2544.traffic import BLOCK_BYTES, FCS_BYTES, flows, headers_by_queue

if TYPE_CHECKING:
    from netstack.net.ifnet import Ifnet

__all__ = ["Dut"]

# The generators' first frame is due this long after a trial is set up: time to start the CPUs.
LEAD_NS = {"wall": 3_000_000, "virtual": 1_000}

# Virtual clock: a generator is never late, however far ahead of it the CPUs are.
BURST_ANY = 1 << 20

# Virtual clock: looks at the frames inside the device during a trial.
LOOKS = 24

# Learning: frames a second and port on the virtual clock; the time given on the wall clock.
LEARN_FPS = 20_000.0
LEARN_S = 0.02
LEARN_TRIES = 100  # a busy host may not run a CPU for that long

WIRE_BITS_PER_S = 1e9


class Stream(NamedTuple):
    """One receive queue's generator and its share of the port's rate."""

    engine: HwRxQueue
    headers: bytes
    share: float
    phase: float  # offset of the first frame in frame intervals of the port
    burst_max: int  # frames due at once before the rest counts as late


class Dut:
    """Two NICs, one bridge, generators on every receive queue, counting sinks.

    Args:   setup -- kernel, cores and so on.   trial_s -- length of a trial on the machine's clock.
    Raises: NetstackError from the machine, and EIO when frames of a trial are not accounted for.
    Limits: one trial at a time; the calling thread is a control thread.
    """

    def __init__(self, setup: Setup, trial_s: float) -> None:
        self.setup = setup
        self.trial_ns = round(trial_s * 1e9)
        placement = place(setup)
        self.machine = Machine(
            ncpu=placement.ncpu,
            clock=setup.clock,
            kernel=setup.kernel,
            seed=setup.seed,
            frame=setup.frame,
            drain=setup.drain,
            path=setup.path,
        )
        try:
            self.ports = [self._nic(name, placement) for name in placement.rx]
            self._bridge()
            self.streams = [s for side in range(2) for s in self._streams(side)]
            self._drive(placement)
        except BaseException:
            self.machine.close()
            raise
        self.generators: list[Generator] = []

    def close(self) -> None:
        self.machine.close()

    def load(self, frame_bytes: int) -> None:
        """Send frames of this size from now on; every station is learned on return."""
        self.generators = [Generator(s.headers, frame_bytes - FCS_BYTES) for s in self.streams]
        for stream, generator in zip(self.streams, self.generators, strict=True):
            stream.engine.generator = generator
        blocks = max(len(stream.headers) for stream in self.streams) // BLOCK_BYTES
        least = min(stream.share for stream in self.streams)
        is_wall = self.setup.clock == "wall"
        rate_fps = 0.0 if is_wall else 2 * LEARN_FPS
        length_s = LEARN_S if is_wall else (blocks + 1) / (LEARN_FPS * least)
        heard = [0] * len(self.generators)
        for _ in range(LEARN_TRIES):
            self._send(rate_fps, round(length_s * 1e9))
            heard = [h + g.sent for h, g in zip(heard, self.generators, strict=True)]
            if min(heard) >= blocks:
                return
        raise NetstackError(
            EIO,
            f"rfc2544: a generator sent {min(heard)} frames and has {blocks} stations to learn; is this host stalled?",
        )

    def flat_out(self) -> Trial:
        """Run a trial in which every generator fills descriptors as fast as it finds them."""
        return self._send(0.0, self.trial_ns)

    def trial(self, rate_fps: float) -> Trial:
        """Offer ``rate_fps`` frames a second, half in each direction, and count."""
        return self._send(rate_fps, self.trial_ns)

    def _send(self, rate_fps: float, length_ns: int) -> Trial:
        engine = self.machine.engine
        before = self._lost()
        forwarded = -self._forwarded()
        start_ns = engine.now_ns() + LEAD_NS[self.setup.clock]
        stop_ns = start_ns + length_ns
        port_fps = rate_fps / 2
        for stream, generator in zip(self.streams, self.generators, strict=True):
            offset_ns = round(stream.phase * 1e9 / port_fps) if port_fps else 0
            generator.start(start_ns + offset_ns, stop_ns, port_fps * stream.share, stream.burst_max)
        if self.setup.clock == "virtual":
            for port in self.ports:
                port.hw.pace(engine)
        growth_fps = self._watch(stop_ns)
        self.machine.run()
        forwarded += self._forwarded()
        lost = self._lost()
        lost.subtract(before)
        return self._account(rate_fps, length_ns / 1e9, forwarded, lost, growth_fps)

    def _watch(self, stop_ns: int) -> float:
        """Run until ``stop_ns``; return how fast frames gathered inside the device, 1/s.

        Virtual clock: looked at in steps.  A burst comes and goes, so what counts is the fewest
        frames inside during the middle third and during the last.  Wall clock: 0; a trial is long
        enough to overflow every queue, and looking would disturb it.
        """
        engine = self.machine.engine
        if self.setup.clock == "wall":
            self.machine.run(seconds=(stop_ns - engine.now_ns()) / 1e9)
            return 0.0
        inside, start_ns = [], engine.now_ns()
        for step in range(1, LOOKS + 1):
            until_ns = start_ns + (stop_ns - start_ns) * step // LOOKS
            self.machine.run(seconds=(until_ns - engine.now_ns()) / 1e9)
            sent = sum(generator.sent for generator in self.generators)
            inside.append(sent - self._forwarded() - sum(self._lost().values()))
        third = LOOKS // 3
        growth = min(inside[-third:]) - min(inside[third:-third])
        return growth * 3e9 / (stop_ns - start_ns)

    def _account(
        self,
        rate_fps: float,
        seconds: float,
        forwarded: int,
        lost: Counter[str],
        growth_fps: float,
    ) -> Trial:
        """Make the trial's record; every frame sent must be forwarded or in a counter of losses."""
        sent = sum(generator.sent for generator in self.generators)
        late = sum(generator.late for generator in self.generators)
        paused = sum(generator.paused for generator in self.generators)
        lost_by = {reason: count for reason, count in lost.items() if count}
        missing = sent - forwarded - sum(lost_by.values())
        if missing:
            raise NetstackError(
                EIO,
                f"rfc2544: {sent} frames sent, {forwarded} forwarded, lost by {lost_by}: "
                f"{missing} are in no counter; this is a defect, m.audit() says where",
            )
        return Trial(rate_fps, seconds, sent, forwarded, late, paused, lost_by, growth_fps)

    def _forwarded(self) -> int:
        """Return the frames that left the transmit engines so far."""
        return sum(engine.frames for port in self.ports for engine in port.hw.tx_engines)

    def _lost(self) -> Counter[str]:
        """Return the frames that NICs and stack have lost so far, by counter."""
        totals: Counter[str] = Counter()
        for port in self.ports:
            for engine in port.hw.rx_engines:
                totals["RX_MISSED"] += engine.missed
                totals["RX_OVERSIZE"] += engine.oversize
            totals.update(port.block.drops())
        return totals

    def _nic(self, name: str, placement: Placement) -> "Ifnet":
        rx, tx = placement.rx[name], placement.tx[name]
        rate = 0.0 if self.setup.clock == "wall" else WIRE_BITS_PER_S
        intr = self.setup.intr
        port = self.machine.nic(name, rx_queues=len(rx), tx_queues=len(tx), rate=rate, intr=intr)
        port.hw.tx_port.counting = True
        if intr != "msix":
            self.machine.intrctl.affinity(name, cpu=rx[0])
            return port
        for kind, cpus in (("RX", rx), ("TX", tx)):
            for queue, cpu in enumerate(cpus):
                self.machine.intrctl.affinity(f"{name} {kind}{queue}", cpu=cpu)
        return port

    def _bridge(self) -> None:
        count = 2 * self.setup.addresses
        self.machine.bridge("bridge0", members=self.ports, maxaddr=count + 16)

    def _streams(self, side: int) -> list[Stream]:
        """Return the generators' headers of one side, spread over the queues as the NIC hashes."""
        hw = self.ports[side].hw
        queue_count = len(hw.rx_engines)
        sent = flows(side, self.setup.addresses, self.setup.seed, hw.rss.queue, queue_count)
        headers = headers_by_queue(sent, hw.rss.queue, queue_count)
        is_wall = self.setup.clock == "wall"
        streams = []
        for queue, (engine, blocks) in enumerate(zip(hw.rx_engines, headers, strict=True)):
            slots = self.ports[side].rx_queues[queue].ring.slots
            share = len(blocks) / BLOCK_BYTES / len(sent)
            burst_max = slots if is_wall else BURST_ANY
            streams.append(Stream(engine, blocks, share, queue + side / 2, burst_max))
        return streams

    def _drive(self, placement: Placement) -> None:
        """Wall clock: give each receive engine to the loop of the CPU that takes its interrupt."""
        if self.setup.clock == "virtual":
            return
        engines: dict[int, list[HwRxQueue]] = {}
        for port, cpus in zip(self.ports, placement.rx.values(), strict=True):
            for engine, cpu in zip(port.hw.rx_engines, cpus, strict=True):
                engines.setdefault(cpu, []).append(engine)
        for cpu, driven in engines.items():
            chain.drive(self.machine.engine.cpus[cpu].block, driven)
