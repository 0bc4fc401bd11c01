"""A plugin that cannot register says so when a server asks for DOMINO, in the server's own process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from domino_sglang import plugin
from domino_sglang.serving.refusal import Refusal, refusing

BROKEN = """
import json
from domino_sglang import plugin
import sglang
sglang.__version__ = "0.6.0"
plugin.register()
from sglang.srt.speculative.spec_registry import get_spec
algorithm = get_spec("DOMINO")
try:
    algorithm.handle_server_args(None)
except ValueError as error:
    print("ANSWER" + json.dumps([type(algorithm).__name__, type(error).__name__, str(error)]))
"""


def test_another_release_is_refused_when_asked_for():
    reply = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True)
    answer = next(line for line in reply.stdout.splitlines() if line.startswith("ANSWER"))
    algorithm, error, message = json.loads(answer.removeprefix("ANSWER"))
    assert (algorithm, error) == ("DominoUnavailable", "Refusal")
    assert "0.6.0" in message and "pip install sglang==0.5.23" in message


def test_the_right_release_passes():
    plugin._require_sglang(plugin.SGLANG_VERSION)


def test_a_refusal_is_a_value_error_and_other_errors_pass_through(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    with pytest.raises(Refusal, match="too many"), refusing():
        raise ValueError("too many")
    with pytest.raises(KeyError), refusing():
        raise KeyError("x")


def test_an_uncaught_refusal_is_one_line():
    code = (
        "from domino_sglang.serving.refusal import refusing\nwith refusing():\n    raise ValueError('block_size is 1')"
    )
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert reply.returncode == 1
    assert reply.stderr == "DOMINO cannot serve: block_size is 1\n"
