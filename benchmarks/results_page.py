"""Write ``docs/results.md`` from the heads of the reports under ``benchmarks/results``.

    python benchmarks/results_page.py

The head of a report is the list below its title. Measuring commands write date and hardware; whoever commits a folder
adds ``- question:``, ``- answer:`` and ``- weights:``, and to an older report that lost its worth ``- superseded by:``.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results.md"
NEEDED = ("question", "answer", "weights", "date", "hardware")

INTRODUCTION = """\
# What has been measured

One current report for each question; each folder holds the rows, the report, the versions and the command. What a
report replaced is in the repository's history. No server has been measured on a GPU: what an H200 measured is the
head's kernels by themselves, and training. `weights` names the commit that packaged the drafter measured.

This page is written by `python benchmarks/results_page.py` from the heads of the reports.

| question | answer | hardware | date | weights | superseded by |
|---|---|---|---|---|---|
"""


class BadReport(ValueError):
    """A report's head that the page cannot be made from: the file, what is missing, what to add."""


@dataclass(frozen=True)
class Report:
    """A report's head, texts as they stand there; ``superseded`` is empty while it is current."""

    file: Path
    question: str
    answer: str
    weights: str
    date: str
    hardware: str
    superseded: str

    @classmethod
    def read(cls, folder: Path) -> Report:
        """The head of a folder's ``report.md`` or ``README.md``.

        Raises:
            BadReport: there is no report, or its head lacks a line.
        """
        found = [folder / name for name in ("report.md", "README.md") if (folder / name).exists()]
        if not found:
            raise BadReport(f"{folder} has no report.md; add one, or take the folder away")
        head = found[0].read_text().split("\n## ", 1)[0]
        lines = dict(re.findall(r"^- ([a-z ]+): (.+)$", head, re.M))
        missing = [name for name in NEEDED if name not in lines]
        if missing:
            wanted = ", ".join(f"'- {name}: ...'" for name in missing)
            raise BadReport(f"{found[0]} has no {wanted} in the list below its title; add it, one line each")
        return cls(found[0], *(lines[name] for name in NEEDED), lines.get("superseded by", ""))


def read_reports(results: Path) -> list[Report]:
    """The reports of all folders, newest first.

    Raises:
        BadReport: a head is incomplete, or two folders answer one question.
    """
    reports = [Report.read(folder) for folder in sorted(results.iterdir(), reverse=True) if folder.is_dir()]
    by_question: dict[str, Report] = {}
    for report in reports:
        other = by_question.setdefault(report.question, report)
        if other is not report:
            raise BadReport(
                f"{other.file} and {report.file} answer the same question, {report.question!r}; delete the older folder"
            )
    return reports


def page(reports: list[Report]) -> str:
    """The text of ``docs/results.md``."""
    return INTRODUCTION + "".join(
        f"| [{report.question}]({_link(report.file)}) | {report.answer} | {report.hardware} | {report.date[:10]} | "
        f"{report.weights} | {report.superseded.replace('](../', '](../benchmarks/results/') or '-'} |\n"
        for report in reports
    )


def _link(file: Path) -> str:
    return f"../benchmarks/results/{file.parent.name}/{file.name}"


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    try:
        PAGE.write_text(page(read_reports(RESULTS)))
    except BadReport as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
