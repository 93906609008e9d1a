"""The two sides of the comparison: a machine driven by its public API, and the oracle.

Each applies a step and answers with something comparable: an errno, or None.
"""

from errno import EEXIST, ENOENT, ENOSPC
from typing import Any

from equivalence.trace import INTERFACES, Step
from reference.bridge import Interface, OracleBridge

from netstack import Machine, NetstackError

COUNTED = ("ipackets", "ibytes", "imcasts", "opackets", "obytes", "omcasts", "delivered", "copies")
BRIDGE_COUNTED = ("ipackets", "ibytes", "imcasts", "learned", "moved", "table_full", "flooded")


class MachineSide:
    """One machine in one configuration; it lives through many traces.

    Args: bridge -- settings of its bridges, beside those of the trace.
    """

    def __init__(self, name: str, bridge: dict[str, Any] | None = None, **settings: Any) -> None:
        self.name = name
        self.bridge_settings = bridge or {}
        self.machine = Machine(ncpu=1, seed=5, mbufs=4096, **settings)
        self.interfaces = {each: self.machine.nic(each) for each in INTERFACES}
        self.old: dict[tuple[str, str], Any] = {}

    def begin(self, maxaddr: int, members: tuple[str, ...]) -> None:
        """Put everything back to its defaults, with a bridge of its own."""
        for name, slot in list(self.old):
            self.hook(name, slot, False)
        for br in list(self.machine.bridges.values()):
            br.destroy()
        for ifp in self.interfaces.values():
            ifp.up()
            ifp.listen(False)
        self.br = self.machine.bridge("bridge0", list(members), maxaddr=maxaddr, **self.bridge_settings)

    def apply(self, step: Step) -> int | None:
        verb, *args = step
        try:
            getattr(self, verb)(*args)
        except NetstackError as refusal:
            return refusal.errno
        return None

    def frames(self, name: str, frames: list[bytes]) -> None:
        self.interfaces[name].wire.send(frames)
        self.machine.run()

    def add(self, name: str) -> None:
        self.br.add(name)

    def delete(self, name: str) -> None:
        self.br.delete(name)

    def learn(self, name: str, on: bool) -> None:
        self.br.learn(name, on)

    def discover(self, name: str, on: bool) -> None:
        self.br.discover(name, on)

    def private(self, name: str, on: bool) -> None:
        self.br.private(name, on)

    def state(self, name: str, state: str) -> None:
        self.br.stp(name)
        self.br.set_state(name, state)

    def listen(self, name: str, on: bool) -> None:
        self.interfaces[name].listen(on)

    def updown(self, name: str, on: bool) -> None:
        ifp = self.interfaces[name]
        (ifp.up if on else ifp.down)()

    def static(self, name: str, mac: bytes) -> None:
        self.br.static(name, mac)

    def deladdr(self, mac: bytes) -> None:
        self.br.deladdr(mac)

    def flush(self) -> None:
        self.br.flush()

    def flushall(self) -> None:
        self.br.flushall()

    def maxaddr(self, value: int) -> None:
        self.br.maxaddr = value

    def bridge(self, up: bool) -> None:
        (self.br.up if up else self.br.down)()

    def control(self, on: bool) -> None:
        self.br.forward_control = on

    def hook(self, name: str, slot: str, on: bool) -> None:
        """Put a Python function into a slot that passes everything on, or take it out again."""
        ifp = self.interfaces[name]
        if not on:
            setattr(ifp, slot, self.old.pop((name, slot)))
            return
        old = self.old[name, slot] = getattr(ifp, slot)
        setattr(ifp, slot, lambda ifp, mv, cpu: old(ifp, mv, cpu))

    def wait(self, seconds: float) -> None:
        """Let time pass: too little for an address to expire, enough for its age to be renewed."""
        if self.machine.clock == "virtual":
            self.machine.run(seconds=seconds)

    def sent(self) -> dict[str, list[bytes]]:
        return {name: ifp.wire.recv() for name, ifp in self.interfaces.items()}

    def heard(self) -> dict[str, list[bytes]]:
        return {name: ifp.recv() for name, ifp in self.interfaces.items()}

    def table(self) -> list[tuple[str, str, str]]:
        return [(mac, name, flags) for mac, _, name, _, flags in self.br.addresses()]

    def counters(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {"bridge0": self.br.counters}
        for name, ifp in self.interfaces.items():
            counted = ifp.block.counters()
            found[name] = {key: counted[key] for key in COUNTED if counted[key]}
            found[name].update((f"drops_{key}", n) for key, n in ifp.block.drops().items())
        return found


class OracleSide:
    """The same for the oracle; it lives as long as the machines it is compared with."""

    def __init__(self, own: dict[str, bytes]) -> None:
        self.interfaces = {name: Interface(mac) for name, mac in own.items()}

    def begin(self, maxaddr: int, members: tuple[str, ...]) -> None:
        self.br = OracleBridge(self.interfaces, maxaddr)
        for interface in self.interfaces.values():
            interface.up, interface.listen = True, False
        for name in members:
            self.add(name)

    def apply(self, step: Step) -> int | None:
        verb, *args = step
        if verb in ("learn", "discover", "private", "state", "static", "delete"):
            if args[0] not in self.br.members:
                return ENOENT
        answer: int | None = getattr(self, verb)(*args)
        return answer

    def frames(self, name: str, frames: list[bytes]) -> None:
        for frame in frames:
            self.br.receive(name, frame)

    def add(self, name: str) -> int | None:
        if name in self.br.members:
            return EEXIST
        here = self.interfaces[name]
        here.learn, here.discover, here.private, here.state = True, True, False, "forwarding"
        self.br.members.insert(0, name)
        self.br.table[here.mac] = (name, "local")
        return None

    def delete(self, name: str) -> None:
        self.br.members.remove(name)
        self.keep(lambda owner, kind: owner != name)

    def learn(self, name: str, on: bool) -> None:
        self.interfaces[name].learn = on

    def discover(self, name: str, on: bool) -> None:
        self.interfaces[name].discover = on

    def private(self, name: str, on: bool) -> None:
        self.interfaces[name].private = on

    def state(self, name: str, state: str) -> None:
        self.interfaces[name].state = state

    def listen(self, name: str, on: bool) -> None:
        self.interfaces[name].listen = on

    def updown(self, name: str, on: bool) -> None:
        self.interfaces[name].up = on

    def static(self, name: str, mac: bytes) -> int | None:
        held = sum(kind != "local" for _, kind in self.br.table.values())
        if mac not in self.br.table and held >= self.br.maxaddr:
            return ENOSPC
        self.br.table[mac] = (name, "static")
        return None

    def deladdr(self, mac: bytes) -> int | None:
        return None if self.br.table.pop(mac, None) else ENOENT

    def flush(self) -> None:
        self.keep(lambda owner, kind: kind != "learned")

    def flushall(self) -> None:
        self.keep(lambda owner, kind: kind == "local")

    def maxaddr(self, value: int) -> None:
        self.br.maxaddr = value

    def bridge(self, up: bool) -> None:
        self.br.up = up
        if not up:
            self.flush()

    def control(self, on: bool) -> None:
        self.br.forward_control = on

    def hook(self, name: str, slot: str, on: bool) -> None:
        """A hook that passes everything on changes nothing."""

    def wait(self, seconds: float) -> None:
        """Nothing expires in a trace's time."""

    def keep(self, wanted: Any) -> None:
        self.br.table = {mac: held for mac, held in self.br.table.items() if wanted(*held)}

    def sent(self) -> dict[str, list[bytes]]:
        return {name: self.taken(each.sent) for name, each in self.interfaces.items()}

    def heard(self) -> dict[str, list[bytes]]:
        return {name: self.taken(each.heard) for name, each in self.interfaces.items()}

    @staticmethod
    def taken(frames: list[bytes]) -> list[bytes]:
        copy = frames[:]
        frames.clear()
        return copy

    def table(self) -> list[tuple[str, str, str]]:
        return sorted(
            (mac.hex(":"), owner, "STATIC" if kind == "static" else "")
            for mac, (owner, kind) in self.br.table.items()
            if kind != "local"
        )

    def counters(self) -> dict[str, dict[str, int]]:
        found = {"bridge0": {key: self.br.count[key] for key in BRIDGE_COUNTED}}
        for name, interface in self.interfaces.items():
            found[name] = {key: n for key, n in interface.count.items() if n}
        return found
