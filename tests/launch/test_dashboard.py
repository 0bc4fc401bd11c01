"""Compose file, Prometheus and Grafana provisioning: sound, consistent, and about metrics that exist."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess

import jsonschema
import pytest
import yaml

from tests.launch.conftest import LAUNCH
from tests.support.metric_names import known_metrics, metrics_in

DOCKER = LAUNCH / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "domino.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]

STRINGS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
# The part of the Compose specification this file uses; a key outside it is a mistake.
SCHEMA = {
    "type": "object",
    "required": ["services"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"]}},
        "services": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "oneOf": [{"required": ["image"]}, {"required": ["build"]}],
                "properties": {
                    "image": {"type": "string"},
                    "build": {
                        "type": "object",
                        "required": ["context"],
                        "additionalProperties": False,
                        "properties": {"context": {"type": "string"}, "dockerfile": {"type": "string"}},
                    },
                    "command": STRINGS,
                    "environment": {"type": "object", "additionalProperties": {"type": "string"}},
                    "volumes": STRINGS,
                    "ports": STRINGS,
                    "shm_size": {"type": ["string", "integer"]},
                    "depends_on": STRINGS,
                    "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                    "deploy": {"type": "object"},
                    "healthcheck": {
                        "type": "object",
                        "required": ["test"],
                        "additionalProperties": False,
                        "properties": {
                            "test": STRINGS,
                            "interval": {"type": "string", "pattern": "^[0-9]+[smh]$"},
                            "timeout": {"type": "string", "pattern": "^[0-9]+[smh]$"},
                            "start_period": {"type": "string", "pattern": "^[0-9]+[smh]$"},
                            "retries": {"type": "integer"},
                        },
                    },
                },
            },
        },
    },
}


def with_defaults(text: str) -> str:
    """``${NAME:-default}`` as Compose fills it where the variable is unset."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_compose_file_follows_the_specification():
    jsonschema.validate(COMPOSE, SCHEMA)
    assert "$" not in with_defaults(json.dumps(COMPOSE))


def test_what_compose_mounts_and_builds_is_here():
    services = COMPOSE["services"]
    mounts = [
        volume.split(":")[0] for service in services.values() for volume in map(with_defaults, service["volumes"])
    ]
    for source in mounts:
        assert source in COMPOSE["volumes"] or (DOCKER / source).exists(), source
    build = services["sglang"]["build"]
    context = (DOCKER / build["context"]).resolve()
    assert (context / "pyproject.toml").is_file() and (context / build["dockerfile"]).is_file()


def test_ports_are_open_to_this_machine_only():
    ports = [with_defaults(port) for service in COMPOSE["services"].values() for port in service["ports"]]
    assert ports == ["127.0.0.1:30000:30000", "127.0.0.1:9090:9090", "127.0.0.1:3000:3000"]


def test_the_container_serves_what_the_recipe_serves():
    from sglang.srt.server_args import ServerArgs

    dry = subprocess.run([LAUNCH / "qwen3-8b.sh", "--dry-run"], capture_output=True, text=True, check=True).stdout
    flags = [with_defaults(word) for word in COMPOSE["services"]["sglang"]["command"]][3:]
    parser = argparse.ArgumentParser(exit_on_error=False)
    ServerArgs.add_cli_args(parser)
    ours, recipe = vars(parser.parse_args(flags)), vars(parser.parse_args(shlex.split(dry)[4:]))
    assert {name for name in ours if ours[name] != recipe[name]} == {"host"}


def test_dockerfile_takes_the_supported_sglang():
    from domino_sglang.plugin import SGLANG_VERSION

    assert f"SGLANG_IMAGE=lmsysorg/sglang:v{SGLANG_VERSION}\n" in (DOCKER / "Dockerfile").read_text()


def test_prometheus_asks_the_server():
    config = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())
    targets = [
        target for job in config["scrape_configs"] for group in job["static_configs"] for target in group["targets"]
    ]
    flags = COMPOSE["services"]["sglang"]["command"]
    assert targets == [f"sglang:{flags[flags.index('--port') + 1]}"]
    subprocess.run(["promtool", "check", "config", DOCKER / "prometheus.yaml"], check=True, capture_output=True)


def test_grafana_provisioning_fits_together():
    source = yaml.safe_load((DOCKER / "grafana/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in COMPOSE["services"]
    provider = yaml.safe_load((DOCKER / "grafana/dashboards/provider.yaml").read_text())["providers"][0]
    mounted = [with_defaults(volume).split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/domino.json"
    used = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]}
    used |= {variable["datasource"]["uid"] for variable in DASHBOARD["templating"]["list"]}
    assert used == {source["uid"]}


def test_panels_have_titles_and_places_of_their_own():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert panel["description"] and panel["targets"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
    titles = " ".join(panel["title"] for panel in panels).lower()
    for subject in ("throughput", "acceptance length", "per-position acceptance", "first token", "per output token"):
        assert subject in titles


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_is_one_the_server_has(expression):
    names = metrics_in(expression)
    assert names
    assert names <= known_metrics()


def test_the_model_variable_is_asked_of_a_metric_that_exists():
    variable = DASHBOARD["templating"]["list"][0]
    assert metrics_in(variable["query"]["query"]) <= known_metrics()
    assert all(f'model_name=~"${variable["name"]}"' in expression for expression in EXPRESSIONS)
