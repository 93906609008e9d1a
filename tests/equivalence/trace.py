"""Random traces: what arrives at a bridge and what the operator does meanwhile, made from a seed.

A trace is dense in what is hard: stations that move from port to port within a burst, own
addresses, floods, full tables, members that leave and come back.  Every frame carries a serial
number, so that order and identity can be compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

INTERFACES = ("wm0", "wm1", "wm2", "wm3", "wm4")
STATES = ("disabled", "listening", "learning", "forwarding", "blocking")

STATIONS = [bytes.fromhex("0a00000000") + bytes([n]) for n in range(1, 15)]
BROADCAST = b"\xff" * 6
GROUPS = [bytes.fromhex("01005e000001"), bytes.fromhex("333300000001")]
CONTROL = [bytes.fromhex("0180c20000") + bytes([last]) for last in (0, 1, 2, 14, 15)]
BEYOND_CONTROL = bytes.fromhex("0180c2000010")
NOBODY = b"\0" * 6
ETHERTYPES = (b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x00\x26", b"\x81\x00", b"\x88\xa8")
VLAN = ETHERTYPES[-2:]

VERBS = (
    *("add", "delete", "learn", "discover", "private", "state", "static", "deladdr", "flush"),
    *("flushall", "maxaddr", "bridge", "control", "listen", "updown", "hook", "wait"),
)

Step = tuple[Any, ...]


@dataclass(frozen=True)
class Trace:
    """Settings of the bridge, and steps: ``("frames", interface, [frame, ...])`` or a verb."""

    seed: int
    maxaddr: int
    members: tuple[str, ...]
    steps: tuple[Step, ...]

    @property
    def frame_count(self) -> int:
        return sum(len(step[2]) for step in self.steps if step[0] == "frames")


class Maker:
    """Makes one trace; remembers only what keeps its steps legal."""

    def __init__(self, seed: int, own: dict[str, bytes]) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.own = list(own.values())
        self.serial = 0
        self.inside: list[str] = []
        self.maxaddr = 0  # only ever raised: the oracle does not know what goes when it is lowered
        self.hooked: set[tuple[str, str]] = set()

    def trace(self) -> Trace:
        random = self.random
        members = tuple(random.sample(INTERFACES, random.randint(2, 5)))
        self.inside = list(members)
        maxaddr = self.maxaddr = random.choice((1, 4, 9, 100))
        steps: list[Step] = []
        for _ in range(random.randint(6, 11)):
            if random.random() < 0.55:
                steps += self.change()
            steps.append(self.burst())
        return Trace(self.seed, maxaddr, members, tuple(steps))

    def burst(self) -> Step:
        """Frames that arrive on one interface, back to back."""
        random = self.random
        name = random.choice(self.inside if self.inside and random.random() < 0.9 else INTERFACES)
        size = random.choice((1, 2, 8, 32, 100, 250))  # below a receive ring, a forwarding queue
        make = self.calm_frames() if random.random() < 0.4 else self.frame
        return ("frames", name, [make() for _ in range(random.randint(1, size))])

    def calm_frames(self) -> Callable[[], bytes]:
        """Return what makes frames of few stations that stay where they are: the steady state."""
        random = self.random
        sources = random.sample(STATIONS, random.randint(1, 3))
        targets = random.sample(STATIONS, random.choice((1, 1, 2, 4)))

        def make() -> bytes:
            self.serial += 1
            head = random.choice(targets) + random.choice(sources) + b"\x08\x00"
            return (head + self.serial.to_bytes(4, "big")).ljust(60, b"\xa5")

        return make

    def frame(self) -> bytes:
        random = self.random
        draw = random.random()
        if draw < 0.02:
            return random.randbytes(random.randrange(14))
        groups = (([BROADCAST], 8), (GROUPS, 8), (CONTROL, 5))
        dst = self.address((STATIONS, 60), (self.own, 8), *groups)
        src = self.address((STATIONS, 90), (self.own, 4), (GROUPS, 2), ([NOBODY], 1))
        if 0.94 < draw < 0.96:
            dst = random.choice((NOBODY, BEYOND_CONTROL))
        ethertype = random.choice(ETHERTYPES)
        self.serial += 1
        body = dst + src + ethertype + self.serial.to_bytes(4, "big")
        limit = 1518 if ethertype in VLAN else 1514
        size = random.choice((18, 60, 60, 60, random.randint(18, limit), limit))
        if draw > 0.97:
            size = random.randint(limit + 1, 2000)
        return body.ljust(size, b"\x5a")

    def address(self, *choices: tuple[list[bytes], int]) -> bytes:
        pool = self.random.choices([c for c, _ in choices], [weight for _, weight in choices])[0]
        return self.random.choice(pool)

    def change(self) -> list[Step]:
        """One thing the operator does, with what it needs before."""
        random = self.random
        name = random.choice(INTERFACES)
        verb = random.choice(VERBS)
        if verb in ("add", "delete"):
            unhook: list[Step] = [("hook", *key, False) for key in sorted(self.hooked)]
            self.hooked.clear()
            if verb == "add" and name not in self.inside:
                self.inside.append(name)
            elif verb == "delete" and name in self.inside:
                self.inside.remove(name)
            return [*unhook, (verb, name)]
        if verb == "hook":
            slot = random.choice(("if_input", "if_transmit"))
            on = (name, slot) not in self.hooked
            (self.hooked.add if on else self.hooked.discard)((name, slot))
            return [("hook", name, slot, on)]
        if verb == "state":
            return [("state", name, random.choice(STATES))]
        if verb == "static":
            return [("static", name, random.choice(STATIONS))]
        if verb == "deladdr":
            return [("deladdr", random.choice(STATIONS))]
        if verb in ("flush", "flushall"):
            return [(verb,)]
        if verb == "maxaddr":
            self.maxaddr += random.choice((0, 3, 2000))
            return [("maxaddr", self.maxaddr)]
        if verb == "wait":
            return [("wait", random.choice((0.3, 1.0, 60.0, 100.0)))]
        if verb in ("bridge", "control"):
            return [(verb, random.random() < 0.7)]
        return [(verb, name, random.random() < 0.6)]


def make_trace(seed: int, own: dict[str, bytes]) -> Trace:
    """Return the trace of a seed; ``own`` are the addresses of the interfaces."""
    return Maker(seed, own).trace()
