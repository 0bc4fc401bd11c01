"""A real Prometheus, fed by a real server, asked every question of the Grafana dashboard."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml

from domino_sglang.measure.server_process import free_port
from tests.support.paths import ROOT

PROMETHEUS = shutil.which("prometheus")
DOCKER = ROOT / "launch" / "docker"
PANELS = json.loads((DOCKER / "grafana" / "dashboards" / "domino.json").read_text())["panels"]
# What Grafana puts in for its variables.
VARIABLES = {"$model": ".*", "$__rate_interval": "1m", "$__range": "5m"}


class Prometheus:
    """The recipe's own configuration, with the server's address and an interval fit for a test."""

    def __init__(self, folder: Path, server: str):
        config = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())
        config["global"]["scrape_interval"] = "1s"
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [server.removeprefix("http://")]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        assert PROMETHEUS is not None, "no prometheus: `make tools`, or apt-get install prometheus"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "prometheus.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                [
                    PROMETHEUS,
                    *(f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=stream,
                stderr=stream,
            )

    def query(self, expression: str) -> list[dict]:
        reply = httpx.get(self.url + "/api/v1/query", params={"query": expression}, timeout=30)
        assert reply.status_code == 200, f"{expression}: {reply.text}"
        return reply.json()["data"]["result"]

    def ready(self) -> bool:
        """Whether it answers queries: it refuses connections first, then says 503 until its storage is open."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(self.url + "/-/ready", timeout=30).is_success
        except httpx.ConnectError:
            return False

    def wait_for(self, expression: str, timeout_s: float = 60) -> list[dict]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.ready() and (found := self.query(expression)):
                return found
            time.sleep(0.5)
        raise AssertionError(f"no answer to {expression} within {timeout_s:.0f} s:\n{self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def prometheus(domino, tmp_path_factory):
    """Scraped before and after some requests, so that counters have grown."""
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), domino.url)
    try:
        domino.generate("Once upon a time", {"max_new_tokens": 24})
        running.wait_for("domino:verify_steps_total")
        seen = domino.metric("domino:verify_steps_total")
        for _ in range(3):
            domino.generate("The capital of France is", {"max_new_tokens": 24})
        running.wait_for(f"sum(domino:verify_steps_total) > {seen}")
        # The tokenizer's counters come a scrape or two after the scheduler's.
        running.wait_for("rate(sglang:generation_tokens_total[5m]) > 0")
        yield running
    finally:
        running.stop()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_shows_something(prometheus, panel):
    for target in panel["targets"]:
        expression = target["expr"]
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        found = prometheus.query(expression)
        if "retracted" in expression or "aborted" in expression:
            # Counters that appear with their first event.
            continue
        assert found, expression
        assert not any(math.isnan(float(series["value"][1])) for series in found), expression


def test_acceptance_agrees_with_the_counters(prometheus, domino):
    steps = domino.metric("domino:verify_steps_total")
    prometheus.wait_for(f"sum(domino:verify_steps_total) == {steps}")
    by_position = {
        series["metric"]["position"]: float(series["value"][1])
        for series in prometheus.query("sum by (position) (domino:accepted_proposals_total)")
    }
    assert by_position["1"] == domino.metric("domino:accepted_proposals_total", position="1")
    shares = [by_position[str(position)] / steps for position in range(1, len(by_position) + 1)]
    assert shares == sorted(shares, reverse=True), "a later position cannot be accepted more often than an earlier one"
