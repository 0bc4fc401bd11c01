"""Drafters with fields of their configuration dropped or changed, and tensors missing, misshapen or odd."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.fuzz.hunting import Findings, Found, hunt
from tests.support.drafters import drafter_config, write_drafter
from tests.support.fork_server import ForkServer
from tests.support.targets import adapted, continued, write_target

PROMPTS = ([5, 17, 42, 8, 61, 9], [3, 3, 70, 88, 12, 51, 29, 64])
LENGTH = 10
GONE = "gone"


@dataclass(frozen=True)
class Change:
    """A field of config.json (``.`` between levels), or a tensor, and what becomes of it."""

    where: str
    value: Any

    def __str__(self) -> str:
        return f"{self.where} -> {json.dumps(self.value)}"


_FIELDS = sorted(
    {name for name in drafter_config({"hidden_size": 48, "vocab_size": 97, "num_hidden_layers": 4}) if "." not in name}
    | {f"dflash_config.{name}" for name in ("mask_token_id", "target_layer_ids", "projector_type", "emb_dim")}
    | {f"dflash_config.{name}" for name in ("pure_draft_prefix_len", "gru_hidden_dim", "shift_label")}
    | {"rope_scaling", "rope_parameters", "quantization_config", "sliding_window", "use_sliding_window", "layer_types"}
    | {"text_config", "auto_map", "dtype", "eos_token_id", "transformers_version", "conv_kernel_size", "partial_rotary"}
)
_NUMBERS = (0, -1, 1, 2, 7, 8, 2**31, 0.5, 1e-6, 1e30)
_WORDS = ("", "x", "silu", "float16", "bfloat16", "qwen3", "llama")
_LISTS = ([], [0], [0, 1, 2], [2, 1], ["sliding_attention"], ["full_attention"])
_OBJECTS = ({}, {"x": 1}, {"rope_type": "yarn"}, {"rope_type": "linear", "factor": 2.0}, {"quant_method": "fp8"})
_VALUES = st.sampled_from([GONE, None, True, False, *_NUMBERS, *_WORDS, *_LISTS, *_OBJECTS])
_TENSORS = st.sampled_from(
    [
        "fc.weight",
        "norm.weight",
        "hidden_norm.weight",
        "prefix_gru.weight_hh_l0",
        "prefix_gru.bias_hh_l0",
        "embed_proj.2.weight",
        "layers.0.mlp.up_proj.weight",
        "layers.0.self_attn.q_proj.weight",
        "layers.0.self_attn.q_proj.bias",
        "layers.1.mlp.up_proj.weight",
        "embed_tokens.weight",
        "lm_head.weight",
        "rotary_emb.inv_freq",
    ]
)
FATES: dict[str, Callable[[torch.Tensor], torch.Tensor | None]] = {
    GONE: lambda tensor: None,
    "shorter": lambda tensor: tensor[:-1].contiguous(),
    "flat": lambda tensor: tensor.flatten(),
    "float16": lambda tensor: tensor.half(),
    "float64": lambda tensor: tensor.double(),
    "int8": lambda tensor: tensor.to(torch.int8),
    "not a number": lambda tensor: torch.full_like(tensor, float("nan")),
    "infinite": lambda tensor: torch.full_like(tensor, float("inf")),
    "zeros": torch.zeros_like,
}
_FILES = st.sampled_from(["empty", "half", "no object", "no text", "an index of nothing", "an index of a missing file"])
CHANGES = st.lists(
    st.one_of(
        st.builds(Change, st.sampled_from(_FIELDS), _VALUES),
        st.builds(Change, _TENSORS.map("tensor {}".format), st.sampled_from(sorted(FATES))),
        st.builds(Change, st.just("files"), _FILES),
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda change: change.where,
)


def smaller(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """With one change less."""
    for i in range(len(changes) if len(changes) > 1 else 0):
        yield [*changes[:i], *changes[i + 1 :]]


class Checkpoints:
    """Drafters for one small target: refused in one line, or served with the target's own text."""

    def __init__(self, folder: Path, server: ForkServer, findings: Findings):
        self.folder, self.server, self.findings = folder, server, findings
        self.target = write_target(folder / "target")
        self.good = write_drafter(folder / "good", self.target)
        model = adapted(self.target, None)
        self.texts = [continued(model, prompt, LENGTH)[len(prompt) :] for prompt in PROMPTS]

    def run(self, number: int, until: float, examples: int) -> None:
        self.findings.add(hunt(CHANGES, number, examples, until, self._check, smaller))

    def _check(self, changes: Sequence[Change]) -> Found | None:
        self.findings.tried += 1
        drafter = self.folder / "changed"
        shutil.rmtree(drafter, ignore_errors=True)
        shutil.copytree(self.good, drafter)
        for change in sorted(changes, key=lambda change: change.where == "files"):
            apply(change, drafter)
        what, detail = self._outcome(drafter)
        if what is None:
            return None
        shown = [f"a drafter with {change}" for change in changes]
        failure = Found(what, frozenset(change.where for change in changes), shown, detail)
        return failure if self.findings.is_new(failure) else None

    def _outcome(self, drafter: Path) -> tuple[str | None, str]:
        argv = ["--model-path", str(self.target), "--dtype", "float32", "--speculative-algorithm", "DOMINO"]
        argv += ["--speculative-draft-model-path", str(drafter)]
        settled = self.server.ask("resolve", argv=argv)
        if settled.get("error") == "Refusal":
            return ("the refusal has several lines" if "\n" in settled["message"] else None), settled["message"]
        if "error" in settled:
            return f"no refusal, but {settled['error']}: {_kind(settled['message'])}", settled["message"]
        sampling = {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True}
        served = self.server.ask("together", argv=argv, requests=[(prompt, sampling) for prompt in PROMPTS])
        if "error" in served:
            return f"admitted, then {served['error']}: {_kind(served['message'])}", served["message"]
        if served["value"]["outputs"] != self.texts:
            return "another text", f"{served['value']['outputs']} instead of {self.texts}"
        return None, ""


def _kind(message: str) -> str:
    """An error's words without its numbers and names, as far as one line goes."""
    return re.sub(r"'[^']*'|/\S+|[0-9]+", "_", message.strip().splitlines()[0] if message.strip() else "")[:120]


def apply(change: Change, drafter: Path) -> None:
    """Make one change to a drafter's folder."""
    if change.where == "files":
        _damage(drafter, change.value)
    elif change.where.startswith("tensor "):
        _change_tensor(drafter, change.where.removeprefix("tensor "), change.value)
    else:
        config = json.loads((drafter / "config.json").read_text())
        *path, name = change.where.split(".")
        place = config
        for step in path:
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(name, None)
            if change.value != GONE:
                place[name] = change.value
        (drafter / "config.json").write_text(json.dumps(config))


def _change_tensor(drafter: Path, name: str, fate: str) -> None:
    file = drafter / "model.safetensors"
    tensors = load_file(file)
    changed = FATES[fate](tensors.pop(name, torch.ones(97, 48)))
    save_file(tensors if changed is None else tensors | {name: changed}, file)


def _damage(drafter: Path, how: str) -> None:
    weights, config = drafter / "model.safetensors", drafter / "config.json"
    index = drafter / "model.safetensors.index.json"
    if how == "empty":
        weights.write_bytes(b"")
    elif how == "half":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif how == "no object":
        config.write_text("[]")
    elif how == "no text":
        config.write_bytes(b"\xff\xfe{")
    else:
        map_ = {} if how == "an index of nothing" else {"fc.weight": "model-00001-of-00002.safetensors"}
        index.write_text(json.dumps({"weight_map": map_}))
