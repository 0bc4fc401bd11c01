"""``domino-sglang playground``: its arguments, its words, its exit status."""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys

import httpx
import pytest

from domino_sglang.playground import command


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(argv)


def test_urls_are_cleaned():
    args = parse("--url", "http://127.0.0.1:30000/v1", "--compare", "http://127.0.0.1:30001/")
    assert (args.url, args.compare, args.port) == ("http://127.0.0.1:30000", "http://127.0.0.1:30001", 7860)


@pytest.mark.parametrize("argv", [[], ["--url", "localhost:30000"], ["--url", "http://a", "--compare", "b"]])
def test_wrong_arguments(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "--url" in error if not argv else "is no server URL, expected one like" in error


def test_a_taken_port(server, caplog):
    assert command.run(parse("--url", server.url, "--port", str(server.port))) == 1
    assert "pass another --port" in caplog.text


def test_from_start_to_ctrl_c(server):
    script = (
        "import argparse, sys; from domino_sglang.playground import command as c; "
        "p = argparse.ArgumentParser(); c.add_arguments(p); sys.exit(c.run(p.parse_args()))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "--url", server.url, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        url = re.search(r"Playground on (http://127\.0\.0\.1:\d+) for " + re.escape(server.url), line)[1]
        reply = httpx.get(url + "/api/servers", timeout=30)
        assert reply.json()[0]["ok"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
