"""Receive livelock as a table and a figure; ``netstack.rfc2544.overload`` does the work.

    python -m bench.livelock [--png docs/figures/livelock.png] [--json]
"""

import json

import click

from netstack.rfc2544.overload import Point, sweep


def plot(points: list[Point], path: str) -> None:
    """Draw offered against forwarded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for case in dict.fromkeys(point.case for point in points):
        mine = [point for point in points if point.case == case]
        axes.plot([p.offered_fps / 1e3 for p in mine], [p.forwarded_fps / 1e3 for p in mine], "o-", label=str(case))
    axes.set_xlabel("offered, kilo frames per second of virtual time")
    axes.set_ylabel("forwarded")
    axes.set_title("One core, 74-byte frames: who still forwards under overload")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--png", default="", help="Write the figure here.")
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def main(png: str, as_json: bool) -> None:
    """Sweep the load and print what is forwarded."""
    points = []
    for point in sweep():
        points.append(point)
        if as_json:
            click.echo(json.dumps({**point.case._asdict(), **point._asdict(), "case": str(point.case)}))
        else:
            click.echo(
                f"{point.case!s:32} offered {point.offered_fps / 1e3:7.0f} kfps  "
                f"forwarded {point.forwarded_fps / 1e3:7.0f}  received and dropped {point.wasted}"
            )
    if png:
        plot(points, png)


if __name__ == "__main__":
    main()
