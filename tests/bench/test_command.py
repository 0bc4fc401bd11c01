import argparse

import pytest

from domino_sglang.bench import command
from domino_sglang.errors import UserError


def parse(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_every_measurement_has_its_defaults():
    assert parse("sweep").repetitions == 3 and parse("sweep").requests_per_user == 5
    assert parse("accept").temperature == [0.0, 0.6, 1.0]
    soak = parse("soak")
    assert (soak.minutes, soak.concurrency) == (30.0, 8)


@pytest.mark.parametrize("words", [["sweep", "--workload", "poetry"], ["brew"], []])
def test_what_is_unknown_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "--arms", "EAGLE", "--workload", "chat", "--target", "t", "--drafter", "d"],
        ["sweep", "--url", "nothing", "--workload", "chat"],
        ["sweep", "--url", "a=http://127.0.0.1:1", "--workload", "chat", "--cross-check", "b"],
        ["sweep", "--jsonl", "missing.jsonl"],
        ["accept", "--jsonl", "missing.jsonl"],
    ],
)
def test_mistakes_are_told_before_anything_starts(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        command.run(parse(*words))
    assert not list(tmp_path.iterdir()), "no empty results folder is left"
