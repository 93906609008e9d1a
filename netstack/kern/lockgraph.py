"""The order of locks, as it was seen: a graph over lock classes that must stay free of circles.

An edge A -> B says: B was wanted while A was held, here and there in the source.  Whoever adds the
edge that closes a circle has found an inversion, though nobody is stuck: another CPU at the same
places, at another moment, would be.  Nodes are classes of locks and what is waited for like one:
"grace period", "GIL", "workqueue ..." (``kern/lockdebug.py``, its only user).

Bounded; when it is full it says so once, aloud, and knows nothing new from then on.
"""

from __future__ import annotations

import json
from typing import NamedTuple
from warnings import warn

from netstack._fast.lock import SpinLock
from netstack.params import LOCKDEBUG_CLASSES_MAX, LOCKDEBUG_EDGES_MAX

__all__ = ["Edge", "LockGraph"]


class Edge(NamedTuple):
    """One pair in the order it was seen first."""

    before: str
    after: str
    held_at: str  # where ``before`` was taken
    wanted_at: str  # where ``after`` was wanted
    by: str  # the caller

    def __str__(self) -> str:
        return (
            f"{self.after} wanted at {self.wanted_at} with {self.before}, taken at {self.held_at}, "
            f"by {self.by}"
        )


class LockGraph:
    """Edges by the class they begin at."""

    def __init__(
        self, classes_max: int = LOCKDEBUG_CLASSES_MAX, edges_max: int = LOCKDEBUG_EDGES_MAX
    ) -> None:
        self.classes_max = classes_max
        self.edges_max = edges_max
        self.count = 0
        self.is_full = False
        self._nodes: dict[str, None] = {}
        self._after: dict[str, dict[str, Edge]] = {}
        self._word = SpinLock()  # guards all of it on the wall machine

    def knows(self, before: str, after: str) -> bool:
        """Say whether the pair was seen in this order: one look, no lock."""
        edges = self._after.get(before)
        return edges is not None and after in edges

    def add(self, edge: Edge) -> list[Edge]:
        """Add an edge, unless it closes a circle.

        Returns: [] when it is in; else the edges seen earlier that lead the other way round, from
                 ``edge.after`` to ``edge.before``, and the graph stays as it was.
        """
        self._word.enter()
        try:
            if self.knows(edge.before, edge.after):
                return []
            way = self._way(edge.after, edge.before)
            if not way:
                self._insert(edge)
            return way
        finally:
            self._word.exit()

    def edges(self) -> list[Edge]:
        """Return all edges in the order of their names."""
        return sorted(edge for edges in self._after.copy().values() for edge in edges.copy().values())

    def nodes(self) -> list[str]:
        """Return the classes that have an edge, in order."""
        return sorted(self._nodes)

    def ranks(self) -> dict[str, int]:
        """Return for each class the longest way that leads to it: 0 is taken first."""
        ranks = dict.fromkeys(self._nodes, 0)
        edges = self.edges()
        for _ in ranks:
            before = dict(ranks)
            for edge in edges:
                ranks[edge.after] = max(ranks[edge.after], ranks[edge.before] + 1)
            if ranks == before:
                break
        return ranks

    def text(self) -> str:
        """Return the graph as lines of ``A -> B``, those taken first on top."""
        ranks = self.ranks()
        edges = sorted(self.edges(), key=lambda edge: (ranks[edge.before], edge))
        return "\n".join(f"{edge.before} -> {edge.after}" for edge in edges)

    def dot(self) -> str:
        """Return the graph for Graphviz."""
        lines = [f"  {json.dumps(edge.before)} -> {json.dumps(edge.after)};" for edge in self.edges()]
        return "\n".join(["digraph locks {", *lines, "}"])

    def json(self) -> str:
        """Return the graph with the places of each edge."""
        table = {"nodes": self.nodes(), "edges": [edge._asdict() for edge in self.edges()]}
        return json.dumps(table, indent=1)

    def _insert(self, edge: Edge) -> None:
        fresh = {edge.before, edge.after} - self._nodes.keys()
        if self.count >= self.edges_max or len(self._nodes) + len(fresh) > self.classes_max:
            if not self.is_full:
                self.is_full = True
                warn(
                    f"LOCKDEBUG: the lock order table is full ({len(self._nodes)} classes, "
                    f"{self.count} edges): new orders are NOT checked from here on; raise "
                    "LOCKDEBUG_CLASSES_MAX or LOCKDEBUG_EDGES_MAX, or give locks fewer classes",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return
        self._nodes.update(dict.fromkeys((edge.before, edge.after)))
        self._after.setdefault(edge.before, {})[edge.after] = edge
        self.count += 1

    def _way(self, start: str, end: str) -> list[Edge]:
        """Find the edges from ``start`` to ``end``, breadth first; [] when there is no way."""
        came_by: dict[str, Edge] = {}
        front = [start]
        while front:
            wave, front = front, []
            for node in wave:
                for after, edge in self._after.get(node, {}).items():
                    if after in came_by:
                        continue
                    came_by[after] = edge
                    if after == end:
                        way = [edge]
                        while way[0].before != start:
                            way.insert(0, came_by[way[0].before])
                        return way
                    front.append(after)
        return []
