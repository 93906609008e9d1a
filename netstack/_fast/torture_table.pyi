from netstack._fast.mactable import MacTable
from netstack._fast.torture import Torture

class TableTorture(Torture):
    def __init__(self, threads: int, seed: int = 0, *, mutant: str = "") -> None: ...
    @property
    def table(self) -> MacTable: ...
