"""Full-rate traffic on the wall clock: generators that CPU loops drive, sinks that count."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from frames import headers, station

from netstack import Machine
from netstack._fast import chain
from netstack._fast.wire import Generator

LONG_NS = 60_000_000_000


class Flood:
    """A machine of ``count`` bridged NICs, each receiving on one CPU; every wire sends at full rate.

    Stations of NIC ``i`` are ``station(100 * i + k)``; ``targets[i]`` says to which NICs' stations the
    far end of NIC ``i`` sends; a NIC that is not there is a station nobody knows.

    Args: bridge -- settings of the bridge.   roaming -- so many more stations, from 9000 on, speak on
          every NIC: they move all the time.   guests -- so many speak on one NIC only, from
          ``8000 + 100 * i``: the bridge learns them, and none has a static entry.
    """

    def __init__(
        self,
        m: Machine,
        count: int,
        targets: dict[int, list[int]],
        bridge: dict[str, Any] | None = None,
        roaming: int = 0,
        guests: int = 0,
        **nic: Any,
    ) -> None:
        self.m = m
        self.nics = [m.nic(f"wm{i}", **nic) for i in range(count)]
        self.br = m.bridge("bridge0", self.nics, **{"maxaddr": 1000, **(bridge or {})})
        self.generators: list[Generator] = []
        self.targets = targets
        driven: dict[int, list[Any]] = {}
        for i, others in targets.items():
            pairs = [(station(100 * j + k), station(100 * i + k)) for k in range(10) for j in others]
            pairs += [(station(9000 + (k + i) % roaming), station(9000 + k)) for k in range(roaming)]
            pairs += [(station(100 * j), station(8000 + 100 * i + k)) for k in range(guests) for j in others]
            for queue, engine in enumerate(self.nics[i].hw.rx_engines):
                generator = engine.generator = Generator(headers(pairs), 60)
                self.generators.append(generator)
                driven.setdefault((i + queue) % m.ncpu, []).append(engine)
        for cpu, engines in driven.items():
            chain.drive(m.engine.cpus[cpu].block, engines)
        for i, nic in enumerate(self.nics):
            nic.hw.tx_port.counting = True
            for k in range(10):
                self.br.static(nic, station(100 * i + k))

    @contextmanager
    def running(self) -> Iterator[None]:
        """CPUs work and wires send; afterwards everything is at rest and taken in."""
        now_ns = self.m.engine.now_ns()
        for generator in self.generators:
            generator.start(now_ns, now_ns + LONG_NS, 0.0)
        self.m.engine.start()
        try:
            yield
        finally:
            self.m.engine.stop()
            for nic in self.nics:
                for engine in nic.hw.rx_engines:
                    engine.generator = None
        self.m.run()

    @property
    def sent(self) -> int:
        """Frames the wires have sent."""
        return sum(generator.sent for generator in self.generators)

    def check(self) -> Counter[str]:
        """Every frame sent is accounted for, to the last one; return the drops by name."""
        self.m.audit()
        counted: Counter[str] = Counter()
        drops: Counter[str] = Counter()
        for nic in self.m.all_interfaces:
            counted.update(nic.block.counters())
            drops.update(nic.block.drops())
        received = sum(hw.received for nic in self.nics for hw in nic.hw.rx_engines)
        arrived = sum(hw.counted for nic in self.nics for hw in nic.hw.tx_engines)
        assert received == self.sent == counted["ipackets"]
        assert counted["opackets"] == arrived
        assert received + counted["copies"] == arrived + sum(drops.values())
        rings = sum(queue.held for nic in self.nics for queue in nic.rx_queues)
        assert self.m.pool.free_count == self.m.pool.nmbufs - rings, "mbufs are missing"
        return drops

    def is_alive(self) -> None:
        """Each wire still gets a frame through to each other one's counter."""
        for i in self.targets:
            nic = self.nics[i]
            before = nic.block.counters()["ipackets"]
            for k in range(40):  # enough flows for every queue
                nic.wire.send(headers([(station(100 * i + k), station(100 * i + k))]) + bytes([k] * 60))
            self.m.run()
            assert nic.block.counters()["ipackets"] == before + 40, f"{nic.name} is deaf"
