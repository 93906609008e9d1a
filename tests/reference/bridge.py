"""The sequential oracle: a bridge as one dict, a frame at a time, every outcome counted."""

from collections import Counter
from dataclasses import dataclass, field

VLAN = (b"\x81\x00", b"\x88\xa8")
CONTROL = [bytes.fromhex("0180c20000") + bytes([last]) for last in range(16)]


@dataclass
class Interface:
    mac: bytes
    up: bool = True
    listen: bool = False
    learn: bool = True
    discover: bool = True
    private: bool = False
    state: str = "forwarding"
    count: Counter[str] = field(default_factory=Counter)
    sent: list[bytes] = field(default_factory=list)  # on its cable, in order
    heard: list[bytes] = field(default_factory=list)  # by this machine, in order


class OracleBridge:
    def __init__(self, interfaces: dict[str, Interface], maxaddr: int) -> None:
        self.interfaces, self.maxaddr = interfaces, maxaddr
        self.members: list[str] = []  # newest first
        self.table: dict[bytes, tuple[str, str]] = {}  # address -> member, "learned|static|local"
        self.up, self.forward_control, self.count = True, False, Counter[str]()

    def receive(self, name: str, frame: bytes) -> None:
        here = self.interfaces[name]
        frame = frame.ljust(60, b"\0") if len(frame) >= 14 else frame
        here.count.update(ipackets=1, ibytes=len(frame))
        reason = self.forward(name, here, frame) if here.up else "if_down"
        here.count[f"drops_{reason}"] += reason != ""

    def forward(self, name: str, here: Interface, frame: bytes) -> str:
        dst, src, group = frame[:6], frame[6:12], len(frame) > 0 and frame[0] & 1
        if len(frame) < 14 or len(frame) > 1514 + 4 * (frame[12:14] in VLAN):
            return "runt" if len(frame) < 14 else "giant"
        here.count["imcasts"] += group
        is_member = name in self.members and self.up
        if not is_member or here.state in ("disabled", "listening", "blocking"):
            reason = "stp_state" if is_member else "not_for_us"
            return self.local(name, frame) if group or dst == here.mac else reason
        if dst in CONTROL and not self.forward_control:
            return "control_addr"
        if here.learn and not src[0] & 1 and any(src):
            self.learn(name, src)
        owner, kind = self.table.get(dst, ("", ""))
        if kind == "local":
            return self.local(owner, frame)
        if here.state == "learning":
            return "stp_state"
        if self.table.get(src, ("", ""))[1] == "local" and not group:
            return "own_source"
        if kind and (reason := self.blocked(here, name, owner)):
            return reason
        self.count.update(ipackets=1, ibytes=len(frame), imcasts=group, flooded=not kind)
        every = [m for m in self.members if self.blocked(here, name, m) == ""]
        out = [owner] if kind else [m for m in every if group or self.interfaces[m].discover]
        heard = [m for m in self.members if group and self.interfaces[m].listen]
        here.count["copies"] += max(0, len(out) - 1) + len(heard)
        for m in out:
            self.interfaces[m].sent.append(frame)
            self.interfaces[m].count.update(opackets=1, obytes=len(frame), omcasts=group)
        for m in heard:
            self.local(m, frame)
        return "" if out else "no_egress"

    def blocked(self, here: Interface, name: str, owner: str) -> str:
        there = self.interfaces[owner]
        muted = "stp_state" if there.state in ("disabled", "blocking") else ""
        both = "protected" if here.private and there.private else ""
        return "same_member" if owner == name else both or ("" if there.up else "if_down") or muted

    def learn(self, name: str, src: bytes) -> None:
        owner, kind = self.table.get(src, ("", ""))
        held = sum(kind != "local" for _, kind in self.table.values())
        if not kind and held >= self.maxaddr:
            self.count["table_full"] += 1
        elif not kind or (kind == "learned" and owner != name):
            self.table[src] = (name, "learned")
            self.count["moved" if kind else "learned"] += 1

    def local(self, owner: str, frame: bytes) -> str:
        there = self.interfaces[owner]
        if there.listen:
            there.heard.append(frame)
            there.count["delivered"] += 1
        return "" if there.listen else "no_proto"
