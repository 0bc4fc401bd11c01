"""The drafter's ``config.json``, parsed and validated once, for everybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domino_sglang.errors import UserError

DOMINO_PROJECTORS = ("domino", "causal_v5")
DOMINO_ARCHITECTURES = ("DominoDraftModel", "DFlashDraftModel")

# What SpecForge takes where a configuration leaves a field out.
SPECFORGE_DEFAULTS = {"projector_type": "domino", "pure_draft_prefix_len": 0, "shift_label": False}

# Other drafters with a block, by what their architecture begins with or their fields do, and the algorithm of SGLang
# that serves each; None where SGLang has none.
OTHER_DRAFTERS = {"dspark": "DSPARK", "dflash2": "DFLASH", "lilicorr": "DFLASH", "xpress": None}

# Extensions of DFlash drafters that are no part of Domino, with the value that leaves each out.
BACKBONE_EXTRAS = {
    "hidden_act": "silu",
    "use_gemma_norm": False,
    "conv_kernel_size": 0,
    "selector_rank": 0,
    "output_multiplier": 1.0,
    "final_logit_softcapping": 0.0,
    "attention_sink_bias": False,
    "attention_value_scale": 1.0,
}

# Where Transformers, and compressed-tensors of old, say how the weights of a file are packed.
QUANTIZATION_CONFIGS = ("quantization_config", "compression_config")


class CheckpointError(UserError, ValueError):
    """A drafter checkpoint that cannot be served, said in one line: value, expectation, fix."""


@dataclass(frozen=True)
class DominoConfig:
    """Shapes and switches of a Domino drafter.

    The symbols of the paper (arXiv 2605.29707) are properties: ``H``, ``V``, ``G``, ``R``, ``K``, ``S``.

    Attributes:
        hidden_size: H, shared with the target.
        vocab_size: V, shared with the target.
        block_size: tokens in one draft block, the bonus token included.
        target_layer_ids: the K target layers whose hidden states feed the drafter.
        pure_draft_prefix_len: proposals 1..n take the base logits uncorrected.
        shift_label: True when row i of the backbone's output predicts token i + 1 of the block.
        raw: the whole ``config.json`` as a dict.
        assumed: fields that it leaves out, with SpecForge's defaults in their place.
    """

    hidden_size: int
    vocab_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    attention_bias: bool
    max_position_embeddings: int
    block_size: int
    num_target_layers: int
    target_layer_ids: tuple[int, ...]
    mask_token_id: int
    pure_draft_prefix_len: int
    emb_dim: int
    gru_hidden_dim: int
    shift_label: bool
    raw: Mapping[str, Any]
    assumed: tuple[str, ...] = ()

    @property
    def H(self) -> int:
        return self.hidden_size

    @property
    def V(self) -> int:
        return self.vocab_size

    @property
    def G(self) -> int:
        return self.gru_hidden_dim

    @property
    def R(self) -> int:
        return self.emb_dim

    @property
    def K(self) -> int:
        return len(self.target_layer_ids)

    @property
    def S(self) -> int:
        """Proposals per block: ``block_size - 1``."""
        return self.block_size - 1

    @property
    def num_proposals(self) -> int:
        return self.S

    @property
    def first_row(self) -> int:
        """Row of the backbone's output that predicts proposal 1: 0 with ``shift_label``, else 1."""
        return 0 if self.shift_label else 1

    @classmethod
    def from_pretrained(cls, path: str | Path) -> DominoConfig:
        """Read ``path/config.json``.

        Raises:
            CheckpointError: no such file, not JSON, or not the configuration of a Domino drafter.
        """
        file = Path(path) / "config.json"
        if not file.is_file():
            raise CheckpointError(
                f"no config.json in {str(path)!r}: a Domino drafter is a folder with config.json and safetensors; "
                "pass its path to --speculative-draft-model-path"
            )
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{file} is not valid JSON ({error}): download the checkpoint again") from None
        return cls.from_dict(raw, where=str(file))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config.json") -> DominoConfig:
        """Parse and validate a configuration held in a dict.

        Raises:
            CheckpointError: a field is missing, of the wrong type, out of range, or contradicted by another.
        """
        return _Reader(raw, where).parse()


class _Reader:
    """Reads fields out of a raw configuration, naming the file and the field in every complaint."""

    def __init__(self, raw: Mapping[str, Any], where: str):
        if not isinstance(raw, Mapping):
            raise CheckpointError(f"{where} holds {type(raw).__name__}, expected a JSON object")
        dflash = raw.get("dflash_config")
        if dflash is not None and not isinstance(dflash, Mapping):
            raise CheckpointError(f"{where}: dflash_config is {type(dflash).__name__}, expected a JSON object")
        self.raw, self.dflash, self.where = raw, dflash or {}, where
        self.assumed: list[str] = []

    def parse(self) -> DominoConfig:
        self._check_family()
        self._check_projector()
        self._check_backbone()
        self._check_unquantised()
        hidden_size = self._integer("hidden_size", at_least=1)
        heads = self._integer("num_attention_heads", at_least=1)
        vocab_size = self._integer("vocab_size", at_least=1)
        num_target_layers = self._integer("num_target_layers", at_least=1)
        block_size = self._integer("block_size", at_least=1)
        if block_size == 1:
            raise self._error("block_size is 1, expected at least 2: a block is the bonus token and its proposals")
        config = DominoConfig(
            hidden_size=hidden_size,
            vocab_size=vocab_size,
            num_hidden_layers=self._integer("num_hidden_layers", at_least=1),
            num_attention_heads=heads,
            num_key_value_heads=self._integer("num_key_value_heads", at_least=1, default=heads),
            head_dim=self._integer("head_dim", at_least=1, default=hidden_size // heads),
            intermediate_size=self._integer("intermediate_size", at_least=1),
            rms_norm_eps=self._positive_number("rms_norm_eps", default=1e-6),
            attention_bias=self._boolean("attention_bias", default=False),
            max_position_embeddings=self._integer("max_position_embeddings", at_least=1, default=32768),
            block_size=block_size,
            num_target_layers=num_target_layers,
            target_layer_ids=self._layer_ids(num_target_layers),
            mask_token_id=self._integer("mask_token_id", at_least=0),
            pure_draft_prefix_len=self._integer(
                "pure_draft_prefix_len", at_least=0, default=self._assume("pure_draft_prefix_len")
            ),
            emb_dim=self._integer("emb_dim", at_least=1),
            gru_hidden_dim=self._integer("gru_hidden_dim", at_least=1),
            shift_label=self._boolean("shift_label", default=self._assume("shift_label")),
            raw=dict(self.raw),
            assumed=tuple(self.assumed),
        )
        self._check_ranges(config)
        return config

    def _check_family(self) -> None:
        architectures = self.raw.get("architectures")
        named = [str(a) for a in architectures] if isinstance(architectures, list | tuple) else []
        for family, algorithm in OTHER_DRAFTERS.items():
            by_name = [name for name in named if family in name.lower()]
            by_field = [name for name in (*self.dflash, *self.raw) if name.startswith(f"{family}_")]
            if by_name or by_field:
                sign = f"architectures is {named!r}" if by_name else f"it has the field {by_field[0]}"
                fix = (
                    f"serve it with --speculative-algorithm {algorithm}" if algorithm else "no algorithm here serves it"
                )
                raise self._error(f"not a Domino drafter: {sign}; {fix}")

    def _check_projector(self) -> None:
        projector = self.dflash.get("projector_type", self.raw.get("projector_type"))
        if projector is None and {"emb_dim", "gru_hidden_dim"} <= {*self.dflash, *self.raw}:
            # Sizes of a head that no other drafter has; check_checkpoint looks for its tensors.
            projector = self._assume("projector_type")
        if projector not in DOMINO_PROJECTORS:
            raise self._error(
                f"not a Domino drafter: projector_type is {projector!r}, expected 'domino'; "
                "serve a plain DFlash drafter with --speculative-algorithm DFLASH"
            )
        architectures = self.raw.get("architectures") or []
        if not isinstance(architectures, list | tuple) or not any(a in DOMINO_ARCHITECTURES for a in architectures):
            raise self._error(f"architectures is {architectures!r}, expected one of {list(DOMINO_ARCHITECTURES)}")

    def _check_backbone(self) -> None:
        """Refuse fields that make upstream build another drafter than the one Domino describes."""
        for name, plain in BACKBONE_EXTRAS.items():
            value = self.dflash.get(name, self.raw.get(name))
            if value is not None and value != plain:
                raise self._error(
                    f"{name} is {value!r}, and a Domino drafter has a plain Qwen3-style backbone ({name} {plain!r} or "
                    "absent); serve this drafter with --speculative-algorithm DFLASH"
                )

    def _check_unquantised(self) -> None:
        """A loader would look for packed weights and scales, and a Domino drafter stores neither."""
        for name in QUANTIZATION_CONFIGS:
            if self.raw.get(name) is not None:
                raise self._error(
                    f"{name} is {self.raw[name]!r}, and a Domino drafter stores its weights unquantised; remove it "
                    "(--speculative-draft-model-quantization quantises them while they are loaded)"
                )

    def _check_ranges(self, config: DominoConfig) -> None:
        if config.mask_token_id >= config.vocab_size:
            raise self._error(
                f"mask_token_id is {config.mask_token_id}, outside the vocabulary of {config.vocab_size}; "
                "expected an id the target's embedding holds"
            )
        if config.pure_draft_prefix_len > config.num_proposals:
            raise self._error(
                f"pure_draft_prefix_len is {config.pure_draft_prefix_len}, expected 0 to {config.num_proposals} "
                f"(block_size {config.block_size} - 1)"
            )
        if config.num_attention_heads % config.num_key_value_heads:
            raise self._error(
                f"num_attention_heads {config.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {config.num_key_value_heads}"
            )

    def _layer_ids(self, num_target_layers: int) -> tuple[int, ...]:
        ids = self._field("target_layer_ids")
        if not isinstance(ids, list | tuple) or not ids or not all(_is_integer(i) for i in ids):
            raise self._error(f"target_layer_ids is {ids!r}, expected a non-empty list of layer numbers")
        # The last layer cannot be captured: SGLang reads a capture as the input of the layer after it.
        wrong = [i for i in ids if not 0 <= i < num_target_layers - 1]
        if wrong:
            raise self._error(
                f"target_layer_ids holds {wrong}, expected ids from 0 to {num_target_layers - 2} "
                f"(num_target_layers is {num_target_layers}, and the last layer cannot be captured)"
            )
        if list(ids) != sorted(set(ids)):
            raise self._error(f"target_layer_ids is {list(ids)}, expected ascending ids without repeats")
        return tuple(ids)

    def _assume(self, name: str) -> Any:
        """SpecForge's default of a field; noted where the field is left out."""
        if self.dflash.get(name) is None and self.raw.get(name) is None:
            self.assumed.append(name)
        return SPECFORGE_DEFAULTS[name]

    def _integer(self, name: str, *, at_least: int, default: int | None = None) -> int:
        value = self._field(name, default)
        if not _is_integer(value) or value < at_least:
            raise self._error(f"{name} is {value!r}, expected an integer of at least {at_least}")
        return value

    def _positive_number(self, name: str, default: float) -> float:
        value = self._field(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self._error(f"{name} is {value!r}, expected a positive number")
        return float(value)

    def _boolean(self, name: str, default: bool | None = None) -> bool:
        value = self._field(name, default)
        if not isinstance(value, bool):
            raise self._error(f"{name} is {value!r}, expected true or false")
        return value

    def _field(self, name: str, default: Any = None) -> Any:
        inner, outer = self.dflash.get(name), self.raw.get(name)
        if inner is not None and outer is not None and inner != outer:
            raise self._error(
                f"{name} is {outer!r} at top level but {inner!r} in dflash_config; keep the value it was trained with"
            )
        value = inner if inner is not None else outer
        if value is None:
            value = default
        if value is None:
            raise self._error(f"{name} is missing; add it to dflash_config with the value used in training")
        return value

    def _error(self, complaint: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {complaint}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
