"""Does a drafter fit a target? Decided from the two configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domino_sglang.checkpoint.problem import Problem, refuse
from domino_sglang.checkpoint.report import CheckpointReport
from domino_sglang.core.config import CheckpointError, DominoConfig

# Where multimodal configurations keep the language model's part; SGLang's get_hf_text_config knows the same.
TEXT_CONFIGS = ("text_config", "thinker_config", "llm_config", "language_config")
# In SGLang's order; GPT-2 has its own name for the last.
CONTEXT_LENGTHS = (
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "model_max_length",
    "max_position_embeddings",
    "n_positions",
)
ANOTHER_DRAFTER = "choose the drafter trained for this target"


@dataclass(frozen=True)
class Comparison:
    """One property held against the target's; ``problem`` is None where it fits."""

    name: str
    drafter: str
    target: str
    problem: Problem | None = None


def check_against_target(report: CheckpointReport, target: Any, name: str, context_length: int | None = None) -> None:
    """Refuse a drafter that was not trained for this target, or for contexts as long as it is served with.

    Args:
        target: as in :func:`compare_with_target`.
        name: of the target, for the person who has to look closer.
        context_length: tokens, None for any.

    Raises:
        CheckpointError: one line with the first problem.
    """
    rows = compare_with_target(report.config, target)
    if context_length is not None:
        rows.append(compare_context(report.config, context_length))
    refuse(
        [row.problem for row in rows if row.problem],
        see=f"domino-sglang inspect {report.path} --target {name}",
    )


def compare_with_target(config: DominoConfig, target: Any) -> list[Comparison]:
    """Every property that must agree, fitting or not.

    Args:
        target: a folder with ``config.json``, a hub name, a dict, or a Transformers configuration.

    Raises:
        CheckpointError: the target's configuration cannot be read.
    """
    text = target_text_config(target)
    return [
        _hidden_size(config, text),
        _vocabulary(config, text),
        _num_layers(config, text),
        _capture_layers(config, text),
        _mask_token(config, text),
    ]


def target_text_config(target: Any) -> Mapping[str, Any]:
    """The language model's part of a target's configuration, as a dict.

    Raises:
        CheckpointError: the configuration cannot be found or read.
    """
    config = target if isinstance(target, Mapping) else _read(target)
    for name in TEXT_CONFIGS:
        if isinstance(config.get(name), Mapping):
            return target_text_config(config[name])
    return config


def _read(target: Any) -> Mapping[str, Any]:
    if hasattr(target, "to_dict"):
        return target.to_dict()
    file = Path(target) / "config.json"
    if file.is_file():
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{file} is not valid JSON ({error}): download the target again") from None
    if Path(target).exists():
        raise CheckpointError(f"no config.json in the target {str(target)!r}: pass the folder of a Transformers model")
    # A hub name, perhaps in the local cache; Transformers takes seconds to import, so only here.
    from transformers import PretrainedConfig

    try:
        return PretrainedConfig.get_config_dict(str(target))[0]
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"target {str(target)!r} is neither a folder nor a model the hub or its cache has ({reason}): "
            "pass the target's folder or its hub name"
        ) from None


def _number(text: Mapping[str, Any], *names: str) -> int:
    """The first of the fields that the target's configuration has (GPT-2 says ``n_embd`` where Llama says
    ``hidden_size``)."""
    for name in names:
        if isinstance(text.get(name), int):
            return text[name]
    raise CheckpointError(f"the target's config.json has no {names[0]}: pass the configuration of a language model")


def _hidden_size(config: DominoConfig, text: Mapping[str, Any]) -> Comparison:
    found = _number(text, "hidden_size", "n_embd", "d_model")
    problem = None
    if found != config.H:
        problem = Problem("hidden_size is unlike the target's", f"{config.H}", f"the target's {found}", ANOTHER_DRAFTER)
    return Comparison("hidden size", f"{config.H}", f"{found}", problem)


def _vocabulary(config: DominoConfig, text: Mapping[str, Any]) -> Comparison:
    found = _number(text, "vocab_size", "padded_vocab_size")
    # Some configurations (ChatGLM) give the tokenizer's size and, beside it, the padded one of the embedding.
    sizes = {found, _number(text, "padded_vocab_size", "vocab_size")}
    problem = None
    if config.V not in sizes:
        expected = f"the target's {' or '.join(map(str, sorted(sizes)))}"
        problem = Problem("vocab_size is unlike the target's", f"{config.V}", expected, ANOTHER_DRAFTER)
    return Comparison("vocabulary", f"{config.V}", " or ".join(map(str, sorted(sizes))), problem)


def _num_layers(config: DominoConfig, text: Mapping[str, Any]) -> Comparison:
    found = _target_layers(text)
    problem = None
    if found != config.num_target_layers:
        problem = Problem(
            "num_target_layers is unlike the target's number of layers",
            f"{config.num_target_layers}",
            f"the target's {found}",
            ANOTHER_DRAFTER,
        )
    return Comparison("target layers", f"{config.num_target_layers}", f"{found}", problem)


def _capture_layers(config: DominoConfig, text: Mapping[str, Any]) -> Comparison:
    last = _target_layers(text) - 2
    wrong = [i for i in config.target_layer_ids if i > last]
    problem = None
    if wrong:
        problem = Problem(
            "target_layer_ids are out of the target's range",
            f"{wrong}",
            f"ids from 0 to {last} (the last layer cannot be captured)",
            ANOTHER_DRAFTER,
        )
    return Comparison("capture layers", ", ".join(map(str, config.target_layer_ids)), f"0 to {last}", problem)


def _mask_token(config: DominoConfig, text: Mapping[str, Any]) -> Comparison:
    vocabulary = max(_number(text, "vocab_size"), _number(text, "padded_vocab_size", "vocab_size"))
    problem = None
    if config.mask_token_id >= vocabulary:
        problem = Problem(
            "mask_token_id is outside the target's vocabulary",
            f"{config.mask_token_id}",
            f"an id below {vocabulary}",
            f"{ANOTHER_DRAFTER}, or correct mask_token_id in config.json to the one used in training",
        )
    return Comparison("mask token", f"{config.mask_token_id}", f"below {vocabulary}", problem)


def compare_draft_tokens(
    config: DominoConfig, requested: int, flag: str = "--speculative-num-draft-tokens"
) -> Comparison:
    """More draft tokens than the drafter was trained for are refused; fewer are a shorter block."""
    problem = None
    if not 2 <= requested <= config.block_size:
        problem = Problem(
            f"{flag} is {requested}, and this drafter takes 2 to {config.block_size}, the block size it was trained "
            "with (the bonus token counts)",
            fix=f"pass a number in that range or drop {flag}",
        )
    return Comparison("draft tokens", f"up to {config.block_size}", f"{requested} requested", problem)


def compare_context(config: DominoConfig, requested: int) -> Comparison:
    """A server that reads further than the drafter has positions is refused."""
    longest = context_length(config.raw) or config.max_position_embeddings
    problem = None
    if longest < requested:
        problem = Problem(
            "the drafter has fewer positions than the server's context",
            f"{longest} in its config.json",
            f"at least {requested}",
            f"serve with --context-length {longest}, or let it draft beyond what it was trained for with "
            "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1",
        )
    return Comparison("context", f"up to {longest}", f"{requested}", problem)


def context_length(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model was made for, as SGLang's ``get_context_length`` reads it; None where nothing is said."""
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    rope = rope if isinstance(rope, Mapping) else {}
    factor = (
        1 if "original_max_position_embeddings" in rope or rope.get("rope_type") == "llama3" else rope.get("factor")
    )
    said = next((config[name] for name in CONTEXT_LENGTHS if config.get(name) is not None), None)
    return None if said is None else int(said * (factor or 1))


def _target_layers(text: Mapping[str, Any]) -> int:
    return _number(text, "num_hidden_layers", "n_layer", "num_layers")
