from netstack._fast.torture import Torture

class SoftintTorture(Torture):
    def __init__(self, threads: int, seed: int = 0, *, mutant: str = "") -> None: ...

class HandoverTorture(Torture):
    def __init__(self, threads: int, seed: int = 0, *, mutant: str = "") -> None: ...
