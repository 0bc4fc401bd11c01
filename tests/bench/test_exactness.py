"""``bench exactness`` before two servers whose answers are known."""

from __future__ import annotations

import argparse

import pytest

from domino_sglang.bench import command
from domino_sglang.bench.common.arms import ArmError
from domino_sglang.bench.common.rows import read_run
from domino_sglang.bench.exactness.rows import ExactnessSettings, PassRow, PlainRow
from domino_sglang.measure.workloads import chat
from tests.bench.fake_server import Behaviour, FakeServer


def run(tmp_path, *words) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = ["--workload", "chat", "--num-prompts", "3", "--max-tokens", "4", "--out", str(tmp_path)]
    return command.run(parser.parse_args(["exactness", *out, *words]))


def urls(plain: FakeServer, domino: FakeServer) -> list[str]:
    return ["--url", f"AR={plain.url}", "--url", f"DOMINO={domino.url}/"]


def test_equal_answers_pass(tmp_path):
    with FakeServer(Behaviour(tokens=4)) as plain, FakeServer(Behaviour(tokens=4)) as domino:
        assert run(tmp_path, *urls(plain, domino)) == 0
    head, rows = read_run(tmp_path / "rows.jsonl", ExactnessSettings, PlainRow, PassRow)
    assert head.settings.prompts == {"chat": 3} and head.command.startswith("domino-sglang ")
    assert [(row.concurrency, row.cache) for row in rows if isinstance(row, PassRow)] == [
        *((1, "cold"), (1, "warm")),
        *((8, "cold"), (8, "warm")),
    ]
    assert [row.tokens for row in rows if isinstance(row, PlainRow)] == [12, 12]
    asked = [body["messages"] for body in plain.behaviour.bodies if "messages" in body]
    assert asked == [[*prompt.messages] for prompt in chat()[:3]]
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("# Greedy exactness: all tokens identical in 4 passes")
    assert "- commit: " in report and "| 8 | warm | 12 | 0 | - | 0 |" in report


def test_one_other_token_fails_and_is_shown(tmp_path):
    with FakeServer(Behaviour(tokens=4)) as plain, FakeServer(Behaviour(tokens=4, odd_prompt=1)) as domino:
        assert run(tmp_path, *urls(plain, domino), "--concurrency", "2") == 1
    _head, rows = read_run(tmp_path / "rows.jsonl", ExactnessSettings, PlainRow, PassRow)
    for row in rows[1:]:
        (difference,) = row.differences
        assert (difference.prompt, difference.position) == ("chat 1", 3)
        assert difference.domino == difference.plain + 1 and difference.gaps == {"AR": 1.0, "DOMINO": 1.0}
    assert "# Greedy exactness: 2 answers differ in 2 passes" in (tmp_path / "report.md").read_text()


def test_a_server_that_dies_leaves_what_was_measured(tmp_path, caplog):
    plain, domino = FakeServer(Behaviour(tokens=4)), FakeServer(Behaviour(tokens=4, answers_until_death=4))
    with plain, domino:
        assert run(tmp_path, *urls(plain, domino), "--concurrency", "1") == 1
    assert "answered with status 500" in caplog.text
    assert "# Greedy exactness: all tokens identical in 1 of 2 passes" in (tmp_path / "report.md").read_text()


def test_a_server_of_another_name_is_refused(tmp_path):
    with pytest.raises(ArmError, match=r"--url names \['mine'\], expected AR and DOMINO"):
        run(tmp_path, "--url", "mine=http://127.0.0.1:1")
