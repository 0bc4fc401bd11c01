"""``DominoDraftModel``: the DFlash backbone and the Domino head as one Transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, Qwen3RotaryEmbedding

from domino_sglang.checkpoint import GRU_BIASES, load_state_dict, local_folder
from domino_sglang.core.head import DominoHead, Draft, DraftSampling, HeadWeights, rollout
from domino_sglang.hf.configuration import DominoDraftConfig
from domino_sglang.hf.generation import SpecGeneration
from domino_sglang.hf.layers import Attend, DraftLayer, KeyValue, attend_all


class DominoDraftModel(SpecGeneration, PreTrainedModel):
    """A drafter for one target, in the public checkpoint format (SGLang, SpecForge).

    The embedding and the LM head are the target's and are passed in. Context features are the outputs of the target
    layers ``target_layer_ids``: layer i is ``output_hidden_states[i + 1]`` under Transformers, and what SGLang captures
    after ``set_dflash_layers_to_capture`` (it stores i + 1 and reads the input of that layer).

    Tensor names are those of the checkpoint: ``layers.*``, ``norm``, ``fc``, ``hidden_norm``, ``prefix_gru``,
    ``embed_proj``.
    """

    config_class = DominoDraftConfig
    config: DominoDraftConfig
    base_model_prefix = "model"
    main_input_name = "block_ids"
    _no_split_modules = ["DraftLayer"]
    _supports_sdpa = True

    def __init__(self, config: DominoDraftConfig):
        """A randomly initialised drafter.

        Raises:
            CheckpointError: ``config`` does not describe a Domino drafter.
        """
        super().__init__(config)
        domino = self.domino = config.domino
        self.layers = nn.ModuleList(DraftLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.fc = nn.Linear(domino.K * config.hidden_size, config.hidden_size, bias=False)
        self.hidden_norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        head = DominoHead(
            hidden_size=domino.H,
            vocab_size=domino.V,
            gru_hidden_dim=domino.G,
            emb_dim=domino.R,
            gru_bias=bool(config.to_dict().get("dflash_config", {}).get("gru_bias", False)),
        )
        self.prefix_gru, self.embed_proj = head.prefix_gru, head.embed_proj
        self.rotary_emb = Qwen3RotaryEmbedding(config)
        self.post_init()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device = "cpu",
        **unused: Any,
    ) -> DominoDraftModel:
        """Load a checkpoint folder: bare or ``model.`` names, one file or shards, GRU biases or none.

        Args:
            path: a folder, or a hub name that is in the local cache or reachable.
            dtype: None keeps the stored one.

        Raises:
            CheckpointError: the folder is not a complete Domino drafter.
            TypeError: an option of ``PreTrainedModel.from_pretrained`` that is not supported here.
        """
        if unused:
            raise TypeError(f"DominoDraftModel.from_pretrained has no option {sorted(unused)[0]!r}; use dtype, device")
        folder = local_folder(path, what="drafter")
        chosen = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        state = load_state_dict(folder, dtype=chosen, device=device)
        config = DominoDraftConfig.from_pretrained(folder)
        if GRU_BIASES[0] in state:
            # Nothing in a public config.json says so; kept in ours, so that the empty model can be built from it.
            config.dflash_config = {**(getattr(config, "dflash_config", None) or {}), "gru_bias": True}
        model = cls(config).to(device=device, dtype=chosen or state["fc.weight"].dtype)  # type: ignore[call-arg]
        model.load_state_dict(state)
        model.config.dtype = model.fc.weight.dtype
        return model.eval()

    def head_weights(self) -> HeadWeights:
        """The head's tensors; read from the modules each time, so that FSDP and casts are seen."""
        return HeadWeights.from_modules(self.prefix_gru, self.embed_proj)

    def project_features(self, features: torch.Tensor) -> torch.Tensor:
        """``hidden_norm(fc(features))``: ``[B, T, K * H]`` -> ``[B, T, H]``, in the drafter's dtype."""
        return self.hidden_norm(self.fc(features.to(self.fc.weight.dtype)))

    def context_key_values(self, features: torch.Tensor, positions: torch.Tensor) -> list[KeyValue]:
        """Every layer's keys and values of committed tokens: features ``[B, T, K * H]``, positions int64 ``[B, T]``."""
        context = self.project_features(features)
        rotation = self.rotary_emb(context, positions)
        return [cast(DraftLayer, layer).self_attn.key_value(context, rotation) for layer in self.layers]

    def forward(
        self,
        block_embeddings: torch.Tensor,
        positions: torch.Tensor,
        context: Sequence[KeyValue],
        attend: Attend = attend_all,
    ) -> torch.Tensor:
        """The backbone: hidden states Z of block tokens.

        Args:
            block_embeddings: ``[B, Q, H]``, target embeddings of ``[x0, MASK, ...]``, one block or several in a row.
            positions: int64 ``[B, Q]``, absolute.
            context: per layer, keys and values of committed tokens.
            attend: which tokens a query sees; the default is one block that sees all.

        Returns:
            ``[B, Q, H]`` after the final norm.
        """
        hidden = block_embeddings.to(self.fc.weight.dtype)
        rotation = self.rotary_emb(hidden, positions)
        for layer, key_value in zip(self.layers, context, strict=True):
            hidden = layer(hidden, rotation, key_value, attend)
        return self.norm(hidden)

    def block_ids(self, bonus_tokens: torch.Tensor) -> torch.Tensor:
        """``[x0, MASK, ..., MASK]``: int64 ``[...]`` -> ``[..., block_size]``."""
        masks = bonus_tokens.new_full((*bonus_tokens.shape, self.domino.S), self.domino.mask_token_id)
        return torch.cat([bonus_tokens[..., None], masks], dim=-1)

    def propose(
        self,
        bonus_tokens: torch.Tensor,
        positions: torch.Tensor,
        context: Sequence[KeyValue],
        *,
        embedding: torch.Tensor,
        lm_head: torch.Tensor,
        sampling: DraftSampling | None = None,
        head: bool = True,
        attend: Attend = attend_all,
    ) -> tuple[Draft, torch.Tensor]:
        """One draft step.

        Args:
            bonus_tokens: int64 ``[B]``, x0.
            positions: int64 ``[B]``, absolute position of x0.
            context: keys and values of the tokens before x0.
            embedding, lm_head: ``[V, H]``, the target's.
            head: False drafts from the base logits alone (the "base" arm of evaluations).
            attend: as in :meth:`forward`; a padded batch needs a mask.

        Returns:
            The draft, and the base logits ``[B, S, V]`` it was made from.
        """
        z, base_logits = self.read_block(
            bonus_tokens, positions, context, embedding=embedding, lm_head=lm_head, attend=attend
        )
        draft = rollout(
            self.head_weights(),
            z=z,
            base_logits=base_logits,
            bonus_tokens=bonus_tokens,
            embedding=embedding,
            pure_draft_prefix_len=self.domino.pure_draft_prefix_len if head else self.domino.S,
            sampling=sampling,
        )
        return draft, base_logits

    def read_block(
        self,
        bonus_tokens: torch.Tensor,
        positions: torch.Tensor,
        context: Sequence[KeyValue],
        *,
        embedding: torch.Tensor,
        lm_head: torch.Tensor,
        attend: Attend = attend_all,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass of the backbone: what the head drafts from.

        Args:
            bonus_tokens: int64 ``[B]``, x0.
            positions: int64 ``[B]``, absolute position of x0.
            context: keys and values of the tokens before x0.
            embedding, lm_head: ``[V, H]``, the target's.
            attend: as in :meth:`forward`; a padded batch needs a mask.

        Returns:
            Hidden states ``[B, S, H]`` and base logits ``[B, S, V]`` of the proposals.
        """
        offsets = torch.arange(self.domino.block_size, device=positions.device)
        block = nn.functional.embedding(self.block_ids(bonus_tokens), embedding)
        z = self(block, positions[:, None] + offsets, context, attend)
        # Contiguous: of a strided batch PyTorch would read the LM head anew for every request.
        z = z[:, self.domino.first_row : self.domino.first_row + self.domino.S].contiguous()
        return z, nn.functional.linear(z.to(lm_head.dtype), lm_head)
