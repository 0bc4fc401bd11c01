"""A fresh drafter for a target, and what trainer and evaluation need of the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from domino_sglang.core.head import HEAD_PREFIXES
from domino_sglang.hf import DominoDraftConfig, DominoDraftModel
from domino_sglang.training.recipe import DrafterRecipe, RecipeError

# A fresh backbone points nowhere: with the target's full scale its logits would be wrong and certain.
INITIAL_NORM_SHARE = 0.3
PACKAGED = "packaged"


@dataclass(frozen=True)
class TargetEnds:
    """The target's frozen embedding and LM head, both ``[V, H]``."""

    embedding: torch.Tensor
    lm_head: torch.Tensor

    @classmethod
    def of(cls, target: PreTrainedModel) -> TargetEnds:
        return cls(
            *(
                cast(torch.Tensor, end.weight).detach()
                for end in (target.get_input_embeddings(), target.get_output_embeddings())
            )
        )


def drafter_config(recipe: DrafterRecipe, target: PreTrainedModel) -> DominoDraftConfig:
    """The drafter's configuration; what the recipe leaves open is the target's.

    Raises:
        RecipeError: a value that does not fit the target.
        CheckpointError: values that contradict each other.
    """
    config = target.config.get_text_config()
    heads = recipe.num_attention_heads or config.num_attention_heads
    last = config.num_hidden_layers - 2
    if not recipe.target_layer_ids or not all(0 <= i <= last for i in recipe.target_layer_ids):
        raise RecipeError(
            f"drafter.target_layer_ids is {list(recipe.target_layer_ids)}, expected ids from 0 to {last}: the target "
            f"has {config.num_hidden_layers} layers, and the last cannot be captured"
        )
    made = DominoDraftConfig(  # type: ignore[call-arg]
        architectures=["DominoDraftModel"],
        vocab_size=len(TargetEnds.of(target).embedding),
        hidden_size=config.hidden_size,
        intermediate_size=recipe.intermediate_size or config.intermediate_size,
        num_hidden_layers=recipe.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=recipe.num_key_value_heads or getattr(config, "num_key_value_heads", heads),
        head_dim=recipe.head_dim or getattr(config, "head_dim", None) or config.hidden_size // heads,
        rms_norm_eps=getattr(config, "rms_norm_eps", 1e-6),
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": _rope_theta(config)},
        tie_word_embeddings=False,
        block_size=recipe.block_size,
        num_target_layers=config.num_hidden_layers,
        dflash_config={
            "mask_token_id": recipe.mask_token_id,
            "target_layer_ids": list(recipe.target_layer_ids),
            "projector_type": "domino",
            "pure_draft_prefix_len": recipe.pure_draft_prefix_len,
            "emb_dim": recipe.emb_dim,
            "gru_hidden_dim": recipe.gru_hidden_dim,
            "shift_label": recipe.shift_label,
        },
    )
    _ = made.domino  # refuse now, with the field's name, what would fail in the middle of a run
    return made


def _rope_theta(config) -> float:
    rope = getattr(config, "rope_parameters", None) or {}
    return float(rope.get("rope_theta", getattr(config, "rope_theta", 10000.0)))


def new_drafter(recipe: DrafterRecipe, target: PreTrainedModel, seed: int) -> DominoDraftModel:
    """A drafter in float32, the same for the same seed.

    The correction starts at zero (W2 = 0), so that training starts from the backbone's own distribution.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drafter = DominoDraftModel(drafter_config(recipe, target)).float()
    torch.nn.init.zeros_(drafter.embed_proj[2].weight)
    with torch.no_grad():
        final_norm = _final_norm(target)
        if final_norm is not None:
            drafter.norm.weight.copy_(final_norm * INITIAL_NORM_SHARE)
        if recipe.init_from_target:
            _copy_last_layers(drafter, target)
    return drafter


def load_weights(drafter: DominoDraftModel, source: str, head: bool = True) -> DominoDraftModel:
    """Give ``drafter`` the weights of a trained one, in place.

    Args:
        source: a checkpoint folder, or ``packaged``.
        head: False leaves the Domino head as it is.

    Raises:
        RecipeError: the shapes differ.
        CheckpointError: the folder is not a complete Domino drafter.
    """
    if source == PACKAGED:
        from domino_sglang.demo import packaged_drafter

        source = str(packaged_drafter())
    trained = DominoDraftModel.from_pretrained(source, dtype=torch.float32).state_dict()
    wanted = {name: own for name, own in drafter.state_dict().items() if head or not name.startswith(HEAD_PREFIXES)}
    for name, tensor in wanted.items():
        if name not in trained or trained[name].shape != tensor.shape:
            found = tuple(trained[name].shape) if name in trained else "none"
            raise RecipeError(
                f"drafter.start_from: {source} has {name} of shape {found}, expected {tuple(tensor.shape)}; give the "
                "recipe the sizes of that drafter"
            )
    drafter.load_state_dict(trained if head else {name: trained[name] for name in wanted}, strict=head)
    return drafter


def _final_norm(target: PreTrainedModel) -> torch.Tensor | None:
    """The scale of the target's last norm: what its LM head expects to read."""
    return getattr(getattr(target.base_model, "norm", None), "weight", None)


def _copy_last_layers(drafter: DominoDraftModel, target: PreTrainedModel) -> None:
    """Start from the target's last layers: they already write what its LM head reads.

    Raises:
        RecipeError: the shapes differ.
    """
    count = len(drafter.layers)
    for mine, theirs in zip(drafter.layers, cast(Any, target.base_model).layers[-count:], strict=True):
        source = theirs.state_dict()
        for name, parameter in mine.named_parameters():
            if name not in source and name.endswith(("q_norm.weight", "k_norm.weight")):
                continue
            if name not in source or source[name].shape != parameter.shape:
                raise RecipeError(
                    f"drafter.init_from_target: the target's layers have no {name} of shape {tuple(parameter.shape)}; "
                    "leave the drafter's sizes to the target, or set init_from_target: false"
                )
            parameter.copy_(source[name])
