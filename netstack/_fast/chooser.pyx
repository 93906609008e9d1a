"""Choosers as objects, for the explorer in Python; compiled explorers use the inlines of ``chooser.pxd``.

Context: control thread.  A chooser belongs to one explorer; it is no random source for anything else.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

STRATEGIES = {"random": int(CHOOSE_RANDOM), "pct": int(CHOOSE_PCT), "dfs": int(CHOOSE_DFS)}
_NAMES = {**{code: name for name, code in STRATEGIES.items()}, int(CHOOSE_REPLAY): "replay"}


cdef class Chooser:
    """The decisions of one schedule after the other.

    ``strategy``: "random", "pct" with bug ``depth`` 1..16, or "dfs" with at most ``preemptions`` switches away from
    what could go on.  The same arguments and the same answers of the explored program give the same decisions, on
    every host.  Raises ValueError for an unknown strategy or a number out of range.
    """

    def __cinit__(self, strategy: str = "random", seed: int = 0, depth: int = 3, preemptions: int = 2):
        memset(&self.ch, 0, sizeof(chooser_t))
        if strategy not in STRATEGIES:
            raise ValueError(f"no strategy {strategy!r}: one of {', '.join(STRATEGIES)}")
        if not 1 <= depth <= PCT_DEPTH_MAX:
            raise ValueError(f"depth must be 1..{PCT_DEPTH_MAX}, not {depth}")
        if not 0 <= preemptions <= 1 << 20:
            raise ValueError(f"preemptions must be 0..{1 << 20}, not {preemptions}")
        self.ch.strategy = STRATEGIES[strategy]
        self.ch.seed = seed & 0xFFFFFFFFFFFFFFFF
        self.ch.depth = depth
        self.ch.preemptions = preemptions
        chooser_seed(&self.ch, 0)

    def __dealloc__(self):
        free(self.ch.choice)
        free(self.ch.node)

    @staticmethod
    def replay(choices: bytes) -> Chooser:
        """A chooser that repeats recorded decisions, as often as ``begin`` is called."""
        cdef Chooser self = Chooser()
        self.ch.strategy = CHOOSE_REPLAY
        self._script = bytes(choices)
        self.ch.script = self._script
        self.ch.script_n = <uint32_t> len(self._script)
        return self

    @property
    def strategy(self) -> str:
        """"random", "pct", "dfs" or "replay"."""
        return _NAMES[self.ch.strategy]

    def begin(self) -> bool:
        """Start the next schedule; False when a dfs has been through all of them."""
        return chooser_begin(&self.ch)

    def choose(self, enabled: int, current: int) -> int:
        """Pick one bit of ``enabled`` (1..2**64 - 1); ``current``: the option that runs now, -1 for none.

        Raises ValueError when nothing is enabled, MemoryError when the schedule does not fit in memory.
        """
        cdef uint64_t mask = enabled
        cdef int option
        if mask == 0:
            raise ValueError("nothing is enabled: there is nothing to choose")
        if not -1 <= current < OPTIONS_MAX:
            raise ValueError(f"an option is 0..{OPTIONS_MAX - 1}, or -1 for none, not {current}")
        option = chooser_choose(&self.ch, mask, current)
        if self.ch.is_short_of_memory:
            raise MemoryError(f"no memory for a schedule of {self.ch.n} decisions")
        return option

    @property
    def choices(self) -> bytes:
        """Decisions of the schedule under way, a byte each: the option taken."""
        return self.ch.choice[:self.ch.n] if self.ch.n else b""

    @property
    def schedules(self) -> int:
        """Schedules begun."""
        return self.ch.schedules

    @property
    def steps(self) -> int:
        """Calls of ``choose`` in the schedule under way, those with one option included."""
        return self.ch.steps

    @property
    def bound(self) -> int:
        """Dfs: preemptions allowed in the schedules under way."""
        return self.ch.bound

    @property
    def is_exhausted(self) -> bool:
        """Dfs: every schedule within the bound has been taken."""
        return self.ch.is_exhausted != 0

    @property
    def has_diverged(self) -> bool:
        """Replay or dfs: the program did not offer the options it offered before."""
        return self.ch.has_diverged != 0

    def __repr__(self):
        return f"<Chooser {self.strategy}, schedule {self.ch.schedules}>"
