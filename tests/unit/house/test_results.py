"""``docs/results.md`` and README's picture are what the committed reports and rows make of them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from domino_sglang.bench.sweep.report_data import SweepData
from tests.support.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()


def script(name: str):
    """A file of ``benchmarks/``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


results_page, results_picture = script("results_page"), script("results_picture")

HEAD = """# Title

- question: does it work
- answer: yes
- weights: none
- date: 2026-11-28 10:00 UTC
- hardware: two cores
"""


def folder(results: Path, name: str, text: str) -> Path:
    (results / name).mkdir(parents=True)
    (results / name / "report.md").write_text(text)
    return results / name


def test_the_page_is_up_to_date():
    made = results_page.page(results_page.read_reports(RESULTS))
    assert results_page.PAGE.read_text() == made, "run: python benchmarks/results_page.py"


def test_few_folders():
    folders = [path for path in RESULTS.iterdir() if path.is_dir()]
    assert len(folders) <= 18, "one current folder for each question: delete what the new one supersedes"


def test_links_of_reports_lead_somewhere():
    broken = [
        (report.relative_to(ROOT).as_posix(), link)
        for report in RESULTS.glob("*/*.md")
        for link in re.findall(r"\]\(((?!http|#)[^)]+)\)", report.read_text())
        if not (report.parent / link.split("#")[0]).exists()
    ]
    assert broken == []


def test_a_row_of_the_page(tmp_path):
    old = HEAD.replace("does it work", "did it") + "- superseded by: [new](../new/report.md)\n"
    folder(tmp_path, "2026-11-27-old", old)
    folder(tmp_path, "2026-11-28-new", HEAD + "\n## More\n\n- answer: not this one\n")
    new, superseded = results_page.page(results_page.read_reports(tmp_path)).splitlines()[-2:]
    assert new == (
        "| [does it work](../benchmarks/results/2026-11-28-new/report.md) | yes | two cores | 2026-11-28 | none | - |"
    )
    assert superseded.endswith("| [new](../benchmarks/results/new/report.md) |")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([HEAD.replace("- weights: none\n", "")], "report.md has no '- weights: ...' in the list below its title"),
        ([HEAD, HEAD], "answer the same question, 'does it work'; delete the older folder"),
    ],
)
def test_what_the_page_cannot_be_made_from(tmp_path, texts, said):
    for i, text in enumerate(texts):
        folder(tmp_path, f"2026-11-2{i}-x", text)
    with pytest.raises(results_page.BadReport, match=re.escape(said)):
        results_page.read_reports(tmp_path)


def test_a_folder_without_a_report(tmp_path):
    (tmp_path / "2026-11-28-empty").mkdir()
    with pytest.raises(results_page.BadReport, match=r"has no report\.md"):
        results_page.read_reports(tmp_path)


def test_the_picture_shows_the_rows_that_readme_names(tmp_path):
    """README's first report below the picture is the one that it is drawn from."""
    below = README.split("(docs/speed.svg)", 1)[1]
    rows = ROOT / re.search(r"\((benchmarks/results/[^/]+)/report\.md\)", below).group(1)
    results_picture.draw(SweepData.read(rows), tmp_path / "speed.svg")
    assert (tmp_path / "speed.svg").read_text() == (ROOT / "docs" / "speed.svg").read_text(), (
        f"run: python benchmarks/results_picture.py {rows.relative_to(ROOT)}"
    )
