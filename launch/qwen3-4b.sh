#!/usr/bin/env bash
# Qwen3-4B with the public Domino drafter of arXiv 2605.29707, on one GPU.
# Extra flags go to SGLang: qwen3-4b.sh --port 31000; --dry-run only prints the command.
set -euo pipefail

TARGET="${TARGET:-Qwen/Qwen3-4B}"
DRAFTER="${DRAFTER:-Huang2020/Qwen3-4B-Domino-b16}"
# HOST=0.0.0.0 opens the port to the network; pass --api-key with it.
HOST="${HOST:-127.0.0.1}"
PORT="${PORT:-30000}"
MIN_GPU_GIB="${MIN_GPU_GIB:-14}"

# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_gpus 1 "$MIN_GPU_GIB"
need_package domino-sglang "pip install ."
need_weights TARGET
need_weights DRAFTER

# The drafter was trained on answers without thinking, so that is the default; a request may still ask for it.
launch "$PYTHON" -m sglang.launch_server \
  --model-path "$TARGET" \
  --speculative-algorithm DOMINO \
  --speculative-draft-model-path "$DRAFTER" \
  --dtype bfloat16 \
  --default-chat-template-kwargs '{"enable_thinking": false}' \
  --enable-metrics \
  --host "$HOST" --port "$PORT" \
  ${EXTRA[@]+"${EXTRA[@]}"}
