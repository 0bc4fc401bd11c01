"""The commands around the server: what they say, and their exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from domino_sglang import cli
from domino_sglang.commands import doctor
from domino_sglang.commands.doctor import Finding


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_its_arguments(capsys, command):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("argv", [[], ["no-such-command"]])
def test_a_wrong_command_line_ends_with_status_2(capsys, argv):
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert "usage: domino-sglang" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["train", "nowhere.yaml"], "no recipe 'nowhere.yaml'"),
        (["data", "features", "smollm2-135m", "--set", "data.corpus=nowhere"], "no corpus 'nowhere'"),
        (["bench", "accept", "--jsonl", "nowhere.jsonl"], "--jsonl 'nowhere.jsonl' cannot be read"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_the_user_can_put_right_is_said_without_a_traceback(argv, complaint, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    said = caplog.records[-1]
    assert said.getMessage().startswith(f"domino-sglang {argv[0]}: error: {complaint}")
    assert said.exc_info is None


def test_the_installed_command_runs():
    reply = subprocess.run([sys.executable, "-m", "domino_sglang.cli", "--help"], capture_output=True, text=True)
    assert reply.returncode == 0
    assert "doctor" in reply.stdout


def test_doctor_finds_this_environment_well(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    found = {finding["subject"]: finding["found"] for finding in report["findings"]}
    assert found["sglang"] == "0.5.23"
    assert found["DOMINO in SGLang"] == "DominoAlgorithm"
    assert found["platform in force"]


def args(as_json: bool):
    return type("Args", (), {"json": as_json})()


def test_doctor_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(
        doctor, "examine", lambda: [Finding("torch", "2.0"), Finding("sglang", "0.1", "pip install it")]
    )
    assert doctor.run(args(False)) == 1
    shown = capsys.readouterr().out
    assert "ok   torch" in shown and "BAD  sglang" in shown and "- sglang: pip install it" in shown
    assert doctor.run(args(True)) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_doctor_names_another_release_of_sglang(monkeypatch):
    real = doctor.importlib.metadata.version
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "0.5.24" if name == "sglang" else real(name))
    finding = next(f for f in doctor._versions() if f.subject == "sglang")
    assert not finding.ok
    assert "pip install sglang==0.5.23" in finding.fix


def test_doctor_sees_a_plugin_filter(monkeypatch):
    monkeypatch.setenv("SGLANG_PLUGINS", "another")
    assert any(f.subject == "SGLANG_PLUGINS" and not f.ok for f in doctor._entry_points())
    monkeypatch.setenv("SGLANG_PLUGINS", "another, domino")
    assert all(f.ok for f in doctor._entry_points())


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def broken():
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "_device", broken)
    monkeypatch.setattr(doctor, "_registration", list)
    finding = next(f for f in doctor.examine() if "no such device" in f.found)
    assert not finding.ok
