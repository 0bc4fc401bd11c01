"""Rows on disk: the same dataclasses in and out, and no line lost without a word."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from domino_sglang.bench.accept.report import AcceptData
from domino_sglang.bench.accept.rows import AcceptRow, AcceptSettings, Way
from domino_sglang.bench.common import rows
from domino_sglang.bench.soak.rows import Soak, SoakRow, SoakSettings
from domino_sglang.bench.sweep.report_data import SweepData
from domino_sglang.bench.sweep.rows import CrashRow, CrossCheckRow, PointRow, SweepRequestRow
from tests.support.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results"
POINT = PointRow(
    *("DOMINO", "chat", 0.0, 2, 0, False, 1.5, 4, 4, 0, math.nan, math.nan),
    *({"p50": math.nan}, {"p50": 0.25}),
    errors=["a line\u2028that str.splitlines would end here", "größer"],
)
CROSS = CrossCheckRow("DOMINO", "chat", 0.0, 2, [1.0], [], math.nan, False, error="no server")
ACCEPT = AcceptRow("chat", 3, 0.6, Way(8, True, False), 7.5, [1, 4, 2])
ALL = [POINT, CrashRow("base", "chat", "out of memory"), CROSS]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows.append(path, *ALL)
    return path


def read(path: Path) -> list:
    return rows.read(path, PointRow, CrashRow, CrossCheckRow)


def test_what_is_written_is_read_back(file):
    assert "NaN" not in file.read_text(encoding="utf-8")
    # NaN is not equal to itself, but its text is.
    assert list(map(repr, read(file))) == list(map(repr, ALL))


def test_every_field_of_a_request_survives(tmp_path):
    request = SweepRequestRow(
        *("humaneval", 1.0, None, 2.0, 7, 0, "refused"),
        arm="AR",
        point="mixed",
        temperature=1.0,
        concurrency=8,
        repetition=2,
    )
    soak = Soak(0.5, {"failed": 0}, memory=[(2.0, 512)])
    for row in (request, soak, SoakRow("chat", True, "answered", 0.0, 1.0), ACCEPT):
        path = tmp_path / f"{type(row).__name__}.jsonl"
        rows.append(path, row)
        assert rows.read(path, type(row)) == [row]


def test_a_last_line_that_was_cut_is_dropped_with_a_warning(file, caplog):
    whole = file.read_bytes()
    for cut in (1, 20, len(whole) - whole[:-1].rindex(b"\n") - 3):
        caplog.clear()
        file.write_bytes(whole[: -1 - cut])
        assert list(map(repr, read(file))) == list(map(repr, ALL[:2]))
        assert "line 3 was cut off" in caplog.text


def test_a_line_cut_inside_a_character_is_cut_like_any_other(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    rows.append(path, ALL[1], POINT)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex("ö".encode()) + 1])
    assert read(path) == ALL[1:2] and "line 2 was cut off" in caplog.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is no row"),
        ('{"kind": "point"}', "line 2 .*: Field required"),
        ('{"kind": "soup"}', "line 2 .*soup"),
        (
            '{"kind": "crash", "arm": "AR", "during": 3, "reason": ""}',
            "line 2 .*during: Input should be a valid string",
        ),
        ("[]", "line 2"),
    ],
)
def test_a_malformed_row_is_refused_by_file_and_line(file, line, words):
    first, *others = file.read_text(encoding="utf-8").split("\n")
    file.write_text("\n".join([first, line, *others]), encoding="utf-8")
    with pytest.raises(rows.RowError, match=words) as caught:
        read(file)
    assert str(file) in str(caught.value)


def test_a_malformed_last_line_that_is_whole_is_refused_too(file):
    file.write_text(file.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    with pytest.raises(rows.RowError, match="line 4"):
        read(file)


def test_a_file_without_its_head_is_refused(tmp_path):
    for text in ("", '{"kind": "acceptance", "workload": "chat"}\n'):
        (tmp_path / "rows.jsonl").write_text(text)
        with pytest.raises(rows.RowError, match=r"rows\.jsonl"):
            AcceptData.read(tmp_path)


def test_a_new_kind_of_head_needs_only_its_settings(tmp_path):
    settings = AcceptSettings(["chat"], [0.0], [7.0], 1, 4, 16, 0)
    rows.begin(tmp_path / "rows.jsonl", settings)
    head, found = rows.read_run(tmp_path / "rows.jsonl", AcceptSettings, AcceptRow)
    assert head.settings == settings and found == []
    assert dataclasses.replace(head, date="") == dataclasses.replace(rows.Head.now(settings=settings), date="")


@pytest.mark.parametrize("folder", [file.parent for file in sorted(RESULTS.glob("*/rows.jsonl"))], ids=lambda f: f.name)
def test_what_the_project_has_published_can_be_read(folder):
    first, second, *_ = (json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines())
    if first.get("kind") != "provenance":
        assert "arm" in first, "an ablation's rows are the training's own"
    elif second["kind"] == "acceptance" and "arm" in second:
        assert "way" not in second, "rows from before trees have no reader any more"
    elif second["kind"] == "acceptance":
        assert AcceptData.read(folder).settings.workloads
    elif second["kind"] == "soak":
        assert rows.read_run(folder / "rows.jsonl", SoakSettings, Soak, SoakRow)[1]
    else:
        assert SweepData.read(folder).points or second["kind"] == "cross-check"
