# shellcheck shell=bash
# What the recipes share: refusals, checks, and saying what will run. Sourced, never run.
#
# --dry-run among a recipe's arguments prints the command without checking or running anything; every other argument
# goes to the command.

DRY_RUN=""
EXTRA=()
for argument in "$@"; do
  if [[ $argument == --dry-run ]]; then DRY_RUN=yes; else EXTRA+=("$argument"); fi
done

REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# The interpreter: $PYTHON, else the active environment, else the one `make env` made, else the system's.
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  if [[ -n ${VIRTUAL_ENV:-} ]]; then
    PYTHON="$VIRTUAL_ENV/bin/python"
  elif [[ -x $REPOSITORY/.venv/bin/python ]]; then
    PYTHON="$REPOSITORY/.venv/bin/python"
  fi
fi

refuse() {
  printf 'refused: %s\n' "$*" >&2
  exit 1
}

# need_gpus COUNT GIB: so many NVIDIA GPUs with so much memory each, among those CUDA_VISIBLE_DEVICES leaves.
need_gpus() {
  [[ -z $DRY_RUN ]] || return 0
  local count=$1 gib=$2 found=0 index memory visible=",${CUDA_VISIBLE_DEVICES-all},"
  local needs="this recipe needs $count NVIDIA GPU(s) with at least $gib GiB each"
  command -v nvidia-smi >/dev/null ||
    refuse "$needs, and nvidia-smi is not installed; without a GPU there is launch/cpu-demo.sh"
  while IFS=', ' read -r index memory; do
    [[ $visible == ,all, || $visible == *",$index,"* || $visible == *",GPU-"* ]] || continue
    if [[ $memory =~ ^[0-9]+$ ]] && ((memory >= gib * 1024)); then found=$((found + 1)); fi
  done < <(timeout 30 nvidia-smi --query-gpu=index,memory.total --format=csv,noheader,nounits 2>/dev/null)
  ((found >= count)) || refuse "$needs, and found $found; see nvidia-smi and CUDA_VISIBLE_DEVICES"
}

# need_package DISTRIBUTION COMMAND: an installed Python package, else the command that installs it.
need_package() {
  [[ -z $DRY_RUN ]] || return 0
  "$PYTHON" -c 'import importlib.metadata as m, sys; m.version(sys.argv[1])' "$1" 2>/dev/null ||
    refuse "$1 is not installed for $PYTHON; run: $2"
}

# need_weights VARIABLE: a folder with config.json, or a model the Hugging Face cache or Hub has.
need_weights() {
  [[ -z $DRY_RUN ]] || return 0
  local name="${!1}" why
  if [[ -d $name ]]; then
    [[ -f $name/config.json ]] || refuse "$1 is the folder '$name', and it holds no config.json"
    return 0
  fi
  [[ $name != [./~]* ]] || refuse "$1 is '$name', and there is no such folder"
  why=$(timeout 120 "$PYTHON" - "$name" <<'PYTHON' 2>&1
import sys
from huggingface_hub import hf_hub_download
try:
    hf_hub_download(sys.argv[1], "config.json")
except Exception as error:
    sys.exit(type(error).__name__)
PYTHON
  ) || refuse "weights '$name' ($1) are neither a folder nor to be had from the Hugging Face cache or Hub" \
    "(${why##*$'\n'}); run: hf download $name, or set $1 to a folder"
}

# launch COMMAND...: say what runs, and run it in this process's place.
launch() {
  printf 'runs:'
  printf ' %q' "$@"
  printf '\n'
  [[ -n $DRY_RUN ]] || exec "$@"
}
