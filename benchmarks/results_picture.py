"""Draw README's picture, ``docs/speed.svg``: speedup over plain decoding against concurrency, from a sweep's rows.

python benchmarks/results_picture.py benchmarks/results/FOLDER
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from domino_sglang.bench.common.arms import DOMINO, PLAIN
from domino_sglang.bench.common.statistics import Spread
from domino_sglang.bench.sweep.plots import pyplot
from domino_sglang.bench.sweep.report_data import Panel, SweepData
from domino_sglang.errors import UserError

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "speed.svg"
NAMES = {"humaneval": "HumanEval", "maths": "maths", "chat": "chat", "mixed": "mixed"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
GREY = "#595959"


def draw(data: SweepData, file: Path) -> None:
    """One group of bars for each number of users, one bar for each greedy workload; whiskers from least to greatest.

    Raises:
        UserError: the sweep has no greedy points of DOMINO beside plain decoding.
    """
    panels = [panel for panel in data.panels if panel[1] == 0 and data.select(panel, DOMINO)]
    if PLAIN not in data.arms or not panels:
        raise UserError(f"the sweep has arms {data.arms}; the picture needs {PLAIN} and {DOMINO}, greedy")
    plt = pyplot()
    plt.rcParams.update({"svg.hashsalt": "speed", "svg.fonttype": "path", "font.size": 11})
    figure, axis = plt.subplots(figsize=(7.2, 3.4))
    width = 0.8 / len(panels)
    for i, panel in enumerate(panels):
        _bars(axis, data, panel, [j - 0.4 + (i + 0.5) * width for j in range(len(data.concurrencies))], width, i)
    axis.axhline(1, color=GREY, linewidth=1)
    axis.text(1.005, 1, "plain\ndecoding", color=GREY, fontsize=9, va="center", transform=axis.get_yaxis_transform())
    axis.set_xticks(range(len(data.concurrencies)), [_users(count) for count in data.concurrencies])
    axis.set_ylabel("times plain decoding")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=len(panels), loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.text(0.99, 0.01, _below(data), ha="right", fontsize=8, color=GREY)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _bars(axis, data: SweepData, panel: Panel, places: list[float], width: float, index: int) -> None:
    spreads: list[Spread] = [data.speedup(panel, DOMINO, count) for count in data.concurrencies]
    middle = [spread.median for spread in spreads]
    error = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    axis.bar(places, middle, 0.92 * width, color=COLOURS[index], label=NAMES.get(panel[0], panel[0]))
    axis.errorbar(places, middle, error, fmt="none", ecolor="black", elinewidth=1, capsize=3)
    for place, spread in zip(places, spreads, strict=True):
        axis.text(place, 0.06, f"{spread.median:.2f}", ha="center", color="white", fontweight="bold")


def _users(count: int) -> str:
    return "1 user" if count == 1 else f"{count} users"


def _below(data: SweepData) -> str:
    return (
        f"SmolLM2-135M-Instruct, greedy; {data.head.hardware}, {data.head.date[:10]}; "
        f"median and span of {data.settings.repetitions} repetitions"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder that `domino-sglang bench sweep` left")
    try:
        draw(SweepData.read(parser.parse_args().folder), PICTURE)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
