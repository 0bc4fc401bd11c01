#!/usr/bin/env bash
# Qwen3-8B with DOMINO, Prometheus and Grafana in containers: docker/compose.yaml.
# SGLang listens on :30000, Prometheus on :9090, Grafana on :3000. Extra arguments go to `docker compose up`.
# TARGET, DRAFTER, HF_TOKEN, HF_HOME, GRAFANA_PASSWORD and the ports are read by compose.yaml; --dry-run only prints.
set -euo pipefail

MIN_GPU_GIB="${MIN_GPU_GIB:-22}"

# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [[ -z $DRY_RUN ]]; then
  command -v docker >/dev/null || refuse "docker is not installed; see https://docs.docker.com/engine/install/"
  docker compose version >/dev/null 2>&1 || refuse "docker has no compose plugin; install docker-compose-plugin"
  docker info >/dev/null 2>&1 || refuse "the docker daemon does not answer; start it, or join the docker group"
  docker info 2>/dev/null | grep -qi 'runtimes:.*nvidia' ||
    refuse "docker has no nvidia runtime; install nvidia-container-toolkit and restart docker"
fi
need_gpus 1 "$MIN_GPU_GIB"

launch docker compose --file "$REPOSITORY/launch/docker/compose.yaml" up --build ${EXTRA[@]+"${EXTRA[@]}"}
