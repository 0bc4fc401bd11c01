#!/usr/bin/env bash
# SGLang's own router in front of several replicas; start each replica with one of the other recipes first:
#   PORT=30001 CUDA_VISIBLE_DEVICES=0 launch/qwen3-8b.sh &
#   PORT=30002 CUDA_VISIBLE_DEVICES=1 launch/qwen3-8b.sh &
#   REPLICAS="http://127.0.0.1:30001 http://127.0.0.1:30002" launch/router.sh
# Extra flags go to the router: router.sh --policy round_robin; --dry-run only prints the command.
set -euo pipefail

REPLICAS="${REPLICAS:-}"
# HOST=0.0.0.0 opens the port to the network; pass --api-key with it.
HOST="${HOST:-127.0.0.1}"
PORT="${PORT:-30000}"
METRICS_PORT="${METRICS_PORT:-29000}"

# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

read -r -a replicas <<<"$REPLICAS"
[[ ${#replicas[@]} -gt 0 ]] || refuse 'REPLICAS is empty; set it to the replicas, as in' \
  'REPLICAS="http://127.0.0.1:30001 http://127.0.0.1:30002"'
for url in "${replicas[@]}"; do
  [[ $url == http://* || $url == https://* ]] || refuse "REPLICAS holds '$url', and a URL with http:// is needed"
done
need_package sglang-router "pip install sglang-router"
if [[ -z $DRY_RUN ]]; then
  for url in "${replicas[@]}"; do
    "$PYTHON" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/health", timeout=10)' "${url%/}" 2>/dev/null ||
      refuse "the replica $url does not answer $url/health; start it first, or take it out of REPLICAS"
  done
fi

# cache_aware sends a conversation to the replica that has its prefix, so its context need not be computed twice.
launch "$PYTHON" -m sglang_router.launch_router \
  --worker-urls "${replicas[@]}" \
  --policy cache_aware \
  --host "$HOST" --port "$PORT" \
  --prometheus-host "$HOST" --prometheus-port "$METRICS_PORT" \
  ${EXTRA[@]+"${EXTRA[@]}"}
