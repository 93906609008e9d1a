"""The paper's Figures 4 to 7, drawn from the rows of a run.

Needs matplotlib, which is an extra: ``require()`` says so before anything is measured.
"""

from collections.abc import Callable, Sequence
from errno import ENOENT
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from netstack.errors import EnvironmentLacksError
from netstack.rfc2544.report import Row

__all__ = ["draw", "require"]

MARKERS = "os^Dv*<>"


class Figure(NamedTuple):
    """One figure: its file, its axes and what the rows give for them."""

    stem: str
    x_label: str
    y_label: str
    x: Callable[[Row], int]
    y: Callable[[Row], float]
    series: Callable[[Row], str]


def _by_kernel_and_cores(row: Row) -> str:
    return f"{row.kernel} {row.cores} core{'s' * (row.cores != 1)}"


def _by_kernel_and_size(row: Row) -> str:
    return f"{row.kernel} {row.frame_bytes} B"


SIZE, CORES = "frame size (bytes with FCS)", "number of cores"
KFPS, MBPS = "kilo frames per second", "Mbit/s"


def _size(row: Row) -> int:
    return row.frame_bytes


def _core_count(row: Row) -> int:
    return row.cores


def _kfps(row: Row) -> float:
    return row.kfps


def _mbps(row: Row) -> float:
    return row.mbps


FIGURES = (
    Figure("kfps-by-size", SIZE, KFPS, _size, _kfps, _by_kernel_and_cores),
    Figure("kfps-by-cores", CORES, KFPS, _core_count, _kfps, _by_kernel_and_size),
    Figure("mbps-by-size", SIZE, MBPS, _size, _mbps, _by_kernel_and_cores),
    Figure("mbps-by-cores", CORES, MBPS, _core_count, _mbps, _by_kernel_and_size),
)


def require() -> None:
    """Raise EnvironmentLacksError (ENOENT) with the cure when matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise EnvironmentLacksError(
            ENOENT, "--report draws with matplotlib, which is missing: pip install 'netstack[plot]'"
        )


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the four figures as PNG files into the folder; their paths."""
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    return [_draw_one(pyplot, figure, rows, folder) for figure in FIGURES]


def _draw_one(pyplot: Any, figure: Figure, rows: Sequence[Row], folder: Path) -> Path:
    canvas, axes = pyplot.subplots(figsize=(8, 5))
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        lines.setdefault(figure.series(row), []).append((figure.x(row), figure.y(row)))
    for index, (name, points) in enumerate(lines.items()):
        xs, ys = zip(*sorted(points), strict=True)
        axes.plot(xs, ys, marker=MARKERS[index % len(MARKERS)], label=name)
    clock = rows[0].clock
    axes.set_title(f"RFC 2544 throughput, {clock} clock, both directions")
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.set_ylim(bottom=0)
    if figure.x_label is CORES:
        axes.set_xticks(sorted({row.cores for row in rows}))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2 if len(lines) > 8 else 1)
    path = folder / f"{clock}-{figure.stem}.png"
    canvas.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(canvas)
    return path
