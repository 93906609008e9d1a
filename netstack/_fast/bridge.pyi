from collections.abc import Sequence
from typing import NamedTuple

from netstack._fast.ifnet import IfnetBlock
from netstack._fast.mactable import AddressTable
from netstack._fast.pserialize import PSerialize

INGRESS: dict[str, int]

class PortSpec(NamedTuple):
    ifnet: IfnetBlock | None
    ingress: str
    learn: bool
    is_protected: bool
    stp: bool
    egress_drop: int
    unknown: Sequence[int]
    group: Sequence[int]
    tag: int = -1

class BridgeBlock:
    def __new__(cls, index: int, table: AddressTable, psz: PSerialize) -> BridgeBlock: ...
    @property
    def table(self) -> AddressTable: ...
    @property
    def psz(self) -> PSerialize: ...
    def publish(self, ports: Sequence[PortSpec], running: bool, forward_control: bool) -> object: ...
    def set_table(self, table: AddressTable) -> AddressTable: ...
    def attach(self, ifp: IfnetBlock, port: int) -> None: ...
    def detach(self, ifp: IfnetBlock) -> None: ...
    def counters(self) -> dict[str, int]: ...
