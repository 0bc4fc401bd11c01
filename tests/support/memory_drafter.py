"""A drafter that knows some token sequences by heart: partial acceptance on a real target, with seconds of training.

Its backbone is random and silenced (a final norm of zeros), so its proposals come from the head alone: the GRU reads
the block's tokens and the correction continues the learned sequences. Where a text is not one of those, proposals are
rejected early. Between the two, blocks are accepted in part, which is what a server test needs to see.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from domino_sglang.core.config import DominoConfig
from domino_sglang.core.head import HeadWeights, gru_step
from tests.support.drafters import drafter_config, random_tensors

GRU, RANK, BLOCK, STEPS = 96, 48, 8, 150


def write_memory_drafter(folder: Path, target: Path, sequences: Sequence[Sequence[int]], seed: int = 0) -> Path:
    """Train the head on the sequences and write the checkpoint; returns the folder."""
    raw = drafter_config(
        json.loads((target / "config.json").read_text()),
        gru_hidden_dim=GRU,
        emb_dim=RANK,
        block_size=BLOCK,
        pure_draft_prefix_len=0,
    )
    config = DominoConfig.from_dict(raw)
    tensors = random_tensors(config, seed=seed)
    tensors["norm.weight"].zero_()
    _train(tensors, _embedding(target), sequences, config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw, indent=2))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def _embedding(target: Path) -> torch.Tensor:
    for file in sorted(target.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            if "model.embed_tokens.weight" in stored.keys():  # noqa: SIM118
                return stored.get_tensor("model.embed_tokens.weight").float()
    raise FileNotFoundError(f"no embedding in {target}")


def _train(tensors: dict, embedding: torch.Tensor, sequences: Sequence[Sequence[int]], config: DominoConfig) -> None:
    windows = torch.tensor(
        [sequence[i : i + BLOCK] for sequence in sequences for i in range(len(sequence) - BLOCK + 1)]
    )
    known, local = windows.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    scale = 1 / embedding.std()
    # The embedding is small; the GRU has to read it.
    w_ih = torch.nn.Parameter(tensors["prefix_gru.weight_ih_l0"] * scale)
    w_hh = torch.nn.Parameter(tensors["prefix_gru.weight_hh_l0"])
    w1 = torch.nn.Parameter(torch.randn(RANK, GRU, generator=generator) / GRU**0.5)
    w2 = torch.nn.Parameter(torch.randn(len(known), RANK, generator=generator))
    optimizer = torch.optim.Adam([w_ih, w_hh, w1, w2], lr=0.02)
    read = embedding[windows]
    for _step in range(STEPS):
        weights = HeadWeights(w_ih=w_ih, w_hh=w_hh, w1=w1, w2=w2)
        state = torch.zeros(len(windows), GRU)
        loss = torch.zeros(())
        for j in range(BLOCK - 1):
            state = gru_step(weights, read[:, j], state)
            logits = F.linear(F.silu(F.linear(state, w1)), w2)
            loss = loss + F.cross_entropy(logits, local[:, j + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tensors["prefix_gru.weight_ih_l0"], tensors["prefix_gru.weight_hh_l0"] = w_ih.detach(), w_hh.detach()
    tensors["embed_proj.0.weight"] = torch.cat([torch.zeros(RANK, config.H), w1.detach()], 1)
    # Tokens never seen keep a logit of zero.
    tensors["embed_proj.2.weight"] = torch.zeros(config.V, RANK).index_copy(0, known, w2.detach())
