from netstack._fast.mbuf import MbufPool
from netstack._fast.torture import Torture

class RingTorture(Torture):
    def __init__(self, threads: int, seed: int = 0, kind: str = "pcq", *, mutant: str = "") -> None: ...

class PoolTorture(Torture):
    def __init__(self, threads: int, seed: int = 0, *, mutant: str = "") -> None: ...
    @property
    def pool(self) -> MbufPool: ...
