"""A whole checkpoint held against what its configuration promises."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from domino_sglang.checkpoint.hub import local_folder
from domino_sglang.checkpoint.problem import Problem, refuse
from domino_sglang.checkpoint.safetensors_files import StoredTensor, read_folder
from domino_sglang.checkpoint.tensors import (
    GRU_BIASES,
    PARTS,
    TARGET_COPIES,
    ExpectedTensor,
    bare_name,
    expected_tensors,
    is_rotary_cache,
)
from domino_sglang.core.config import SPECFORGE_DEFAULTS, CheckpointError, DominoConfig

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
MODELOPT_CONFIG = "hf_quant_config.json"
EXPORT_AGAIN = "correct config.json or export the checkpoint again"


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint holds.

    Attributes:
        tensors: bare name -> tensor, only those a server loads.
        dtype: the one dtype of all of them.
        gru_bias: whether the prefix GRU has biases.
        warnings: what is odd and harmless.
    """

    path: Path
    config: DominoConfig
    tensors: Mapping[str, StoredTensor]
    dtype: torch.dtype
    gru_bias: bool
    warnings: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of all loaded weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def parameters(self) -> dict[str, int]:
        """Number of weights in each part of the drafter."""
        expected = expected_tensors(self.config, gru_bias=self.gru_bias)
        count = dict.fromkeys(PARTS, 0)
        for name, tensor in self.tensors.items():
            count[expected[name].part] += tensor.nbytes // self.dtype.itemsize
        return count

    @property
    def num_parameters(self) -> int:
        return sum(self.parameters.values())


def check_checkpoint(path: str | Path) -> CheckpointReport:
    """Read the configuration and headers of a folder, or of a model on the hub; refuse what could not be served.

    Raises:
        CheckpointError: one line with the first problem: file, tensor, found, expected, fix.
    """
    report, problems = examine(path)
    refuse(problems, see=f"domino-sglang inspect {path}")
    assert report is not None
    return report


def examine(path: str | Path) -> tuple[CheckpointReport | None, list[Problem]]:
    """Like :func:`check_checkpoint`, but collects every problem. The report is None where there are any."""
    try:
        folder = local_folder(path)
    except CheckpointError as error:
        return None, [Problem(str(error))]
    problems: list[Problem] = []
    config = None
    try:
        config = DominoConfig.from_pretrained(folder)
    except CheckpointError as error:
        problems.append(Problem(str(error)))
    if (folder / MODELOPT_CONFIG).exists():
        fix = "export the drafter unquantised, or delete the file if its weights are"
        problems.append(Problem(f"{folder / MODELOPT_CONFIG} speaks of quantised weights", fix=fix))
    stored, wrong_files = read_folder(folder)
    problems += wrong_files
    # Of an incomplete set of files every complaint about a missing tensor would be an echo of the first problem.
    if config is None or wrong_files:
        return None, problems

    by_name: dict[str, StoredTensor] = {}
    for tensor in stored:
        twin = by_name.setdefault(bare_name(tensor.name), tensor)
        if twin is not tensor:
            problems.append(_stored_twice(twin, tensor))
    gru_bias = any(name in by_name for name in GRU_BIASES)
    expected = expected_tensors(config, gru_bias=gru_bias)
    warnings, unknown = _beside_expected(by_name, expected, config)
    warnings += [
        f"{folder / 'config.json'} leaves out {name}: SpecForge's default {SPECFORGE_DEFAULTS[name]!r} is taken"
        for name in config.assumed
    ]
    problems += _missing_or_misshapen(by_name, expected, folder) + unknown
    loaded = {name: by_name[name] for name in expected if name in by_name}
    problems += _wrong_dtypes(loaded)
    if problems:
        return None, problems
    dtype = DTYPES[next(iter(loaded.values())).dtype]
    return CheckpointReport(folder, config, loaded, dtype, gru_bias, tuple(warnings)), []


def _stored_twice(first: StoredTensor, second: StoredTensor) -> Problem:
    return Problem(
        f"{bare_name(second.name)} is stored twice",
        f"{first.name} in {first.file.name} and {second.name} in {second.file.name}",
        "one",
        "delete the stale file or export the checkpoint again",
    )


def _missing_or_misshapen(
    by_name: Mapping[str, StoredTensor], expected: Mapping[str, ExpectedTensor], folder: Path
) -> list[Problem]:
    problems = []
    for name, wanted in expected.items():
        tensor = by_name.get(name)
        shape = f"shape {list(wanted.shape)} ({wanted.fields})"
        if tensor is None:
            fix = "the GRU takes both biases or none" if name in GRU_BIASES else EXPORT_AGAIN
            problems.append(Problem(f"{name} is missing in {folder}", "no such tensor", shape, fix))
        elif tensor.shape != wanted.shape:
            what = f"{tensor.name} in {tensor.file} is misshapen"
            problems.append(Problem(what, f"shape {list(tensor.shape)}", shape, EXPORT_AGAIN))
    return problems


def _beside_expected(
    by_name: Mapping[str, StoredTensor], expected: Mapping[str, ExpectedTensor], config: DominoConfig
) -> tuple[list[str], list[Problem]]:
    """Warnings about the harmless tensors nobody asked for, problems about the others."""
    warnings, problems = [], []
    for name, tensor in by_name.items():
        if name in expected or is_rotary_cache(name):
            continue
        if name in TARGET_COPIES and tensor.shape == (config.V, config.H):
            warnings.append(
                f"{tensor.name} ({tensor.nbytes / 1e6:.1f} MB) in {tensor.file.name} is never read: "
                "the target's own is used; drop it from the export"
            )
            continue
        problems.append(
            Problem(
                f"{tensor.name} in {tensor.file} is no tensor of this drafter",
                f"shape {list(tensor.shape)}",
                "no such tensor",
                _why_unknown(name, config),
            )
        )
    return warnings, problems


def _why_unknown(name: str, config: DominoConfig) -> str:
    if name in TARGET_COPIES:
        return f"a copy of the target's would have shape {[config.V, config.H]}; drop it from the export"
    layer = re.match(r"layers\.(\d+)\.", name)
    if layer and int(layer[1]) >= config.num_hidden_layers:
        return f"config.json says num_hidden_layers {config.num_hidden_layers}; {EXPORT_AGAIN}"
    if re.search(r"self_attn\.[qkvo]_proj\.bias$", name):
        return "config.json says attention_bias false; set it to true if the drafter was trained with biases"
    return "ignoring it could change what the drafter computes; export the checkpoint without it"


def _wrong_dtypes(loaded: Mapping[str, StoredTensor]) -> list[Problem]:
    legal = " or ".join(DTYPES)
    problems = [
        Problem(
            f"{tensor.name} in {tensor.file} has an unsupported dtype",
            tensor.dtype,
            legal,
            "save the drafter in bfloat16, float16 or float32 (quantised drafters are not supported)",
        )
        for tensor in loaded.values()
        if tensor.dtype not in DTYPES
    ]
    count = Counter(tensor.dtype for tensor in loaded.values() if tensor.dtype in DTYPES)
    if len(count) > 1:
        common = count.most_common(1)[0][0]
        odd = [tensor for tensor in loaded.values() if tensor.dtype in DTYPES and tensor.dtype != common]
        problems.append(
            Problem(
                f"{odd[0].name} in {odd[0].file} and {len(odd) - 1} more differ in dtype from the rest",
                ", ".join(f"{n} tensors of {dtype}" for dtype, n in count.most_common()),
                f"{common} throughout",
                f"save all tensors as {common}",
            )
        )
    return problems
