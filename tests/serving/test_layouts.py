"""Every checkpoint layout: what the drafter proposes inside a real scheduler equals the plain PyTorch oracle's blocks.

The oracle is the Transformers backend (``domino_sglang.hf``) over a Transformers target: other attention, other KV
cache, other loader; it shares with the server nothing but ``domino_sglang.core.head``, which has tests of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from domino_sglang.core.head import rollout
from domino_sglang.hf import DominoDraftModel
from tests.support.drafters import OTHER_NAMES, write_drafter
from tests.support.targets import write_target

PROMPTS = [[5, 17, 42, 8, 61, 9], [3, 3, 70, 88, 12, 51, 29, 64, 7, 33, 90]]
NEW_TOKENS = 20


@dataclass(frozen=True)
class Layout:
    """A target, a drafter for it, the dtype both are served in, and how much context the drafter sees."""

    target: dict[str, Any] = field(default_factory=dict)
    drafter: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    window: int | None = None

    @property
    def tolerance(self) -> float:
        """Of base logits, relative to the largest of them."""
        return {"float32": 2e-4, "float16": 2e-2, "bfloat16": 1.5e-1}[self.dtype]


LAYOUTS = {
    "DominoDraftModel, Llama, untied": Layout(),
    "DFlashDraftModel": Layout(drafter={"architectures": ["DFlashDraftModel"]}),
    "alias causal_v5": Layout(drafter={"projector_type": "causal_v5"}),
    "early SpecForge's names and defaults": Layout(
        drafter={
            "names": OTHER_NAMES,
            "left_out": ("projector_type", "shift_label", "pure_draft_prefix_len"),
            "shift_label": False,
            "pure_draft_prefix_len": 0,
        }
    ),
    "shift_label false": Layout(drafter={"shift_label": False}),
    "no pure prefix": Layout(drafter={"pure_draft_prefix_len": 0}),
    "pure prefix 3, shift_label false": Layout(drafter={"pure_draft_prefix_len": 3, "shift_label": False}),
    "pure prefix of the whole block": Layout(drafter={"pure_draft_prefix_len": 7}),
    "GRU biases": Layout(drafter={"gru_bias": True}),
    "model. prefix": Layout(drafter={"prefix": "model."}),
    "sharded": Layout(drafter={"shards": 3, "prefix": "model.", "gru_bias": True}),
    "two layers, block 5": Layout(drafter={"num_hidden_layers": 2, "block_size": 5}),
    "block 2": Layout(drafter={"block_size": 2, "pure_draft_prefix_len": 0}),
    "tied target": Layout(target={"tied": True}),
    "Qwen3": Layout(target={"kind": "qwen3"}),
    "Qwen3, tied": Layout(target={"kind": "qwen3", "tied": True}, drafter={"shift_label": False}),
    "stored bfloat16": Layout(drafter={"dtype": torch.bfloat16}),
    "stored float16": Layout(drafter={"dtype": torch.float16}),
    "bfloat16": Layout({"dtype": torch.bfloat16}, {"dtype": torch.bfloat16}, "bfloat16"),
    "float16": Layout({"dtype": torch.float16}, {"dtype": torch.float16}, "float16"),
    "compact draft window": Layout(window=9),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_proposals_equal_the_oracles(fork_server, tmp_path, name):
    layout = LAYOUTS[name]
    target = write_target(tmp_path / "target", **layout.target)
    drafter = write_drafter(tmp_path / "drafter", target, **layout.drafter)
    answer = fork_server.ask(
        "generate",
        argv=[
            *("--model-path", str(target), "--dtype", layout.dtype),
            *("--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)),
            *(["--speculative-draft-window-size", str(layout.window)] if layout.window else []),
        ],
        prompts=PROMPTS,
        max_new_tokens=NEW_TOKENS,
        out=str(tmp_path / "blocks.pt"),
    )
    assert answer.get("value", {}).get("blocks", 0) >= 2, answer
    oracle = Oracle(target, drafter, getattr(torch, layout.dtype), layout.window)
    for served in torch.load(tmp_path / "blocks.pt"):
        sequence = served["prompt"] + served["output"]
        assert len(served["output"]) == NEW_TOKENS
        if layout.dtype == "float32":
            assert served["output"] == oracle.greedy(served["prompt"], NEW_TOKENS)
        for block in served["blocks"]:
            if block["position"] < len(sequence):
                compare(block, oracle, sequence, layout)


def compare(block: dict[str, Any], oracle: Oracle, sequence: list[int], layout: Layout) -> None:
    place = block["position"]
    assert block["bonus"] == sequence[place]
    draft, base_logits = oracle.propose(sequence[:place], block["bonus"])
    scale = base_logits.abs().max().item()
    torch.testing.assert_close(
        block["base_logits"].float(), base_logits[0].float(), atol=layout.tolerance * scale, rtol=0
    )
    # In 16 bits the two attentions round apart, and a close choice may go either way; not from the same rows.
    if layout.dtype == "float32":
        assert block["tokens"].tolist() == draft.tokens[0].tolist()
    assert block["tokens"].tolist() == oracle.head(block)


class Oracle:
    """Target and drafter under Transformers."""

    def __init__(self, target: Path, drafter: Path, dtype: torch.dtype, window: int | None):
        self.window = window
        self.target = AutoModelForCausalLM.from_pretrained(target, dtype=dtype).eval()
        self.drafter = DominoDraftModel.from_pretrained(drafter, dtype=dtype)

    @torch.no_grad()
    def propose(self, committed: list[int], bonus: int):
        hidden = self.target(torch.tensor([committed]), output_hidden_states=True).hidden_states
        features = torch.cat([hidden[layer + 1] for layer in self.drafter.domino.target_layer_ids], -1)
        first = max(0, len(committed) - self.window) if self.window else 0
        context = self.drafter.context_key_values(features[:, first:], torch.arange(first, len(committed))[None])
        return self.drafter.propose(
            torch.tensor([bonus]),
            torch.tensor([len(committed)]),
            context,
            embedding=self.target.get_input_embeddings().weight,
            lm_head=self.target.get_output_embeddings().weight,
        )

    @torch.no_grad()
    def head(self, block: dict[str, Any]) -> list[int]:
        """Proposals from the very rows and base logits that the server's head had."""
        domino, proposals = self.drafter.domino, len(block["tokens"])
        draft = rollout(
            self.drafter.head_weights(),
            z=block["hidden"][None, domino.first_row : domino.first_row + proposals],
            base_logits=block["base_logits"][None],
            bonus_tokens=torch.tensor([block["bonus"]]),
            embedding=self.target.get_input_embeddings(),
            pure_draft_prefix_len=min(domino.pure_draft_prefix_len, proposals),
        )
        return draft.tokens[0].tolist()

    @torch.no_grad()
    def greedy(self, prompt: list[int], count: int) -> list[int]:
        ids = list(prompt)
        for _ in range(count):
            ids.append(int(self.target(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]
