"""``domino-sglang demo``: the JSON it writes and what it prints, without a server."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from domino_sglang.demo import command


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("same", [True, False])
def test_the_table_in_both_forms(monkeypatch, tmp_path, capsys, same):
    arms = {
        "AR": command.Arm(["one", "two"], tokens=30, seconds=2.0, acceptance_length=None, start_time_s=40.0),
        "DOMINO": command.Arm(
            ["one", "two" if same else "three"], tokens=30, seconds=1.2, acceptance_length=2.125, start_time_s=50.0
        ),
    }
    flags = {}

    def serve(name, given, _log, _max_tokens):
        flags[name] = given
        return arms[name]

    monkeypatch.setattr(command, "_run_arm", serve)
    file = tmp_path / "table.json"
    assert command.run(arguments("--json", str(file))) == 0
    written = json.loads(file.read_text())
    assert written.keys() == {"arms", "identical", "hardware", "versions"}
    assert written["arms"] == {
        "AR": {"tokens_per_s": 15.0},
        "DOMINO": {"tokens_per_s": 25.0, "acceptance_length": 2.125},
    }
    assert written["identical"] is same
    assert written["versions"]["sglang"] == "0.5.23"
    shown = capsys.readouterr().out
    assert "15.0" in shown and "25.0" in shown and "2.12" in shown
    assert f"Greedy texts: {'identical' if same else 'NOT identical'}" in shown
    assert flags["DOMINO"][: len(flags["AR"])] == flags["AR"]
    assert flags["DOMINO"][len(flags["AR"])] == "--speculative-algorithm"


def test_prepare_only_prints_two_folders_and_nothing_else(monkeypatch, capsys):
    monkeypatch.setattr(command, "_run_arm", None)
    assert command.run(arguments("--prepare-only")) == 0
    folders = json.loads(capsys.readouterr().out)
    assert folders.keys() == {"target", "drafter"}
    assert all((Path(folder) / "config.json").is_file() for folder in folders.values())
