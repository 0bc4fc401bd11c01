#!/usr/bin/env bash
# Qwen3.6-27B with its public Domino drafter, on two GPUs (tensor parallel).
# Extra flags go to SGLang: qwen3.6-27b.sh --port 31000; --dry-run only prints the command.
set -euo pipefail

TARGET="${TARGET:-Qwen/Qwen3.6-27B}"
DRAFTER="${DRAFTER:-Huang2020/Qwen3.6-27B-Domino}"
# HOST=0.0.0.0 opens the port to the network; pass --api-key with it.
HOST="${HOST:-127.0.0.1}"
PORT="${PORT:-30000}"
MIN_GPU_GIB="${MIN_GPU_GIB:-44}"

# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_gpus 2 "$MIN_GPU_GIB"
need_package domino-sglang "pip install ."
need_weights TARGET
need_weights DRAFTER

launch "$PYTHON" -m sglang.launch_server \
  --model-path "$TARGET" \
  --speculative-algorithm DOMINO \
  --speculative-draft-model-path "$DRAFTER" \
  --tp-size 2 \
  --dtype bfloat16 \
  --enable-metrics \
  --host "$HOST" --port "$PORT" \
  ${EXTRA[@]+"${EXTRA[@]}"}
