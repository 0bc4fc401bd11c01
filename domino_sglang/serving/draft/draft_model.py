"""The drafter under SGLang: one forward of the backbone and the head proposes the whole block."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.models.dflash import DFlashDraftModel

from domino_sglang.checkpoint import GRU_BIASES, bare_name
from domino_sglang.core.config import CheckpointError, DominoConfig
from domino_sglang.core.head import HEAD_PREFIXES, DominoHead, HeadWeights


class DominoDraftModel(DFlashDraftModel):
    """SGLang's DFlash backbone with a Domino head behind it.

    ``forward`` embeds the block's tokens itself: SGLang's model runner would hand it embeddings cast to bfloat16.
    What comes after the backbone is attached by the worker, once the target's embedding and LM head exist.
    """

    def __init__(self, config, quant_config=None, prefix: str = "") -> None:
        super().__init__(config, quant_config, prefix)
        self.domino = DominoConfig.from_dict(config.domino)
        head = DominoHead(
            hidden_size=self.domino.H,
            vocab_size=self.domino.V,
            gru_hidden_dim=self.domino.G,
            emb_dim=self.domino.R,
            gru_bias=True,
        )
        self.prefix_gru, self.embed_proj = head.prefix_gru, head.embed_proj
        self.has_gru_bias = False
        self.embed_block: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.propose: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None
        for attention in (layer.self_attn for layer in self.layers):
            # Upstream's fused kernel is CUDA-only and runs for bfloat16 alone; elsewhere the same is done in steps.
            attention.use_table_qk_norm_rope &= torch.cuda.is_available()

    def head_weights(self, rows: slice) -> HeadWeights:
        """The head's tensors, with the rows of W2 that this rank scans."""
        weights = HeadWeights.from_modules(self.prefix_gru, self.embed_proj)
        return HeadWeights(
            w_ih=weights.w_ih,
            w_hh=weights.w_hh,
            w1=weights.w1,
            w2=weights.w2[rows],
            b_ih=weights.b_ih if self.has_gru_bias else None,
            b_hh=weights.b_hh if self.has_gru_bias else None,
        )

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        **kwargs,
    ):
        """Draft one block for each request.

        Args:
            input_ids: int64 ``[B * block_size]``, bonus token and masks of each request.
            positions: int64 ``[B * block_size]``.

        Returns:
            upstream's ``LogitsProcessorOutput`` with the backbone's hidden states; the proposals are with ``propose``.
        """
        if self.embed_block is None or self.propose is None:
            raise RuntimeError("the drafter has no target yet: DominoWorker attaches it after loading")
        # A graph is replayed for more requests than there are; the rows beyond hold whatever ids were there before.
        input_ids = input_ids.clamp(0, self.domino.vocab_size - 1)
        output = super().forward(input_ids, positions, forward_batch, self.embed_block(input_ids), **kwargs)
        self.propose(output.hidden_states, input_ids, positions)
        return output

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load the public checkpoint layout: bare names or ``model.`` before them, GRU biases or none.

        Raises:
            CheckpointError: a tensor of the head is missing or misshapen, or only one of the two biases is there.
        """
        head: dict[str, torch.Tensor] = {}

        def backbone() -> Iterable[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                bare = bare_name(name)
                if bare.startswith(HEAD_PREFIXES):
                    head[bare] = tensor
                else:
                    yield bare, tensor

        super().load_weights(backbone())
        self._load_head(head)

    def _load_head(self, tensors: dict[str, torch.Tensor]) -> None:
        parameters = {name: parameter for name, parameter in self.named_parameters() if name.startswith(HEAD_PREFIXES)}
        biases = [name for name in GRU_BIASES if name in tensors]
        self.has_gru_bias = len(biases) == 2
        expected = [name for name in parameters if self.has_gru_bias or name not in GRU_BIASES]
        missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
        if missing or unknown:
            raise CheckpointError(
                f"the drafter's head has missing tensors {missing} and unexpected tensors {unknown}; "
                "run domino-sglang inspect on the checkpoint"
            )
        for name in expected:
            if tensors[name].shape != parameters[name].shape:
                raise CheckpointError(
                    f"{name} has shape {list(tensors[name].shape)}, expected {list(parameters[name].shape)} from "
                    "config.json; run domino-sglang inspect on the checkpoint"
                )
            parameters[name].data.copy_(tensors[name])


EntryClass = DominoDraftModel
