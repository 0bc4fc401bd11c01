#!/usr/bin/env bash
# The demo's small chat model with its packaged drafter, on a machine without a GPU.
# Extra flags go to SGLang: cpu-demo.sh --port 31000; --dry-run only prints the command.
set -euo pipefail

# Folders; empty means the demo's own, prepared at the first run.
TARGET="${TARGET:-}"
DRAFTER="${DRAFTER:-}"
MODEL_NAME="${MODEL_NAME:-SmolLM2-135M-Instruct}"
HOST="${HOST:-127.0.0.1}"
PORT="${PORT:-30000}"
# Scheduler, tokenizer and detokenizer of the default target: 7 GiB resident, 3 of them KV cache (--max-total-tokens).
MIN_FREE_GIB="${MIN_FREE_GIB:-7}"

# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# of FUNCTION: the folder that a function of domino_sglang.demo names. Its progress goes to the terminal.
of() {
  local answer
  answer=$("$PYTHON" - "$1" <<'PYTHON'
import sys
import domino_sglang.demo as demo
try:
    print(getattr(demo, sys.argv[1])())
except Exception as error:
    sys.exit(f"refused: no demo model: {error}")
PYTHON
  ) || exit 1
  printf '%s' "${answer##*$'\n'}"
}

need_memory() {
  [[ -z $DRY_RUN && -r /proc/meminfo ]] || return 0
  local free
  free=$(awk '/^MemAvailable/ {print int($2 / 1024 / 1024)}' /proc/meminfo)
  ((free >= MIN_FREE_GIB)) || refuse "this recipe needs $MIN_FREE_GIB GiB of free memory, and $free GiB are free"
}

need_memory
need_package domino-sglang "make env"
if [[ -n $DRY_RUN ]]; then
  TARGET="${TARGET:-$MODEL_NAME}"
  DRAFTER="${DRAFTER:-packaged-drafter}"
else
  [[ -n $DRAFTER ]] || DRAFTER=$(of packaged_drafter)
  [[ -n $TARGET ]] || TARGET=$(of prepare_target)
fi
need_weights TARGET
need_weights DRAFTER

# float32: greedy answers equal plain decoding's token for token. Blocks of 6: verifying the whole 16 that the packaged
# drafter can draft costs a CPU more than it brings.
launch "$PYTHON" -m sglang.launch_server \
  --model-path "$TARGET" \
  --served-model-name "$MODEL_NAME" \
  --speculative-algorithm DOMINO \
  --speculative-draft-model-path "$DRAFTER" \
  --speculative-num-draft-tokens 6 \
  --dtype float32 \
  --enable-metrics \
  --host "$HOST" --port "$PORT" \
  ${EXTRA[@]+"${EXTRA[@]}"}
