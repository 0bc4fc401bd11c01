"""What is timed: our rollout, the PyTorch rollout, and SGLang's function, over the same tensors."""

from __future__ import annotations

import hashlib
import importlib.machinery
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from rollout_shapes import ModelShape
from torch import nn

from domino_kernels import DominoRollout
from domino_sglang.core.head import DominoHead, DraftSampling, HeadWeights, rollout

UPSTREAM_FILE = "sglang/srt/speculative/domino_utils.py"


@dataclass
class Model:
    """Random weights of one shape: bfloat16, on the GPU."""

    shape: ModelShape
    head: DominoHead
    embedding: nn.Embedding
    lm_head: torch.Tensor


@dataclass
class Inputs:
    """One batch: hidden states of whole blocks ``[B, S + 1, H]``, their base logits ``[B, S, V]``, bonus tokens."""

    hidden: torch.Tensor
    base: torch.Tensor
    bonus: torch.Tensor

    @property
    def z(self) -> torch.Tensor:
        return self.hidden[:, :-1]

    def at(self, temperature: float) -> DraftSampling:
        """Every request at one temperature, with a seed of its own."""
        batch, device = self.bonus.shape[0], self.bonus.device
        return DraftSampling(
            torch.full((batch,), temperature, device=device),
            torch.arange(batch, device=device),
            torch.full((batch,), 100, dtype=torch.int64, device=device),
        )


@dataclass
class Arm:
    """A way to draft.

    Attributes:
        call: drafts and returns tokens ``[B, S]``; safe to capture.
        includes_lm_head: it computes the base logits too (SGLang's function always does).
        exact: scores the whole vocabulary.
        greedy: its tokens are the oracle's.
        extra_bytes: device memory it holds beyond weights and inputs.
    """

    name: str
    call: Callable[[], torch.Tensor]
    includes_lm_head: bool = False
    exact: bool = True
    greedy: bool = True
    extra_bytes: int = 0


def make_model(shape: ModelShape, device: torch.device) -> Model:
    torch.manual_seed(0)
    with torch.device(device):
        head = DominoHead(
            hidden_size=shape.hidden, vocab_size=shape.vocab, gru_hidden_dim=shape.num_units, emb_dim=shape.rank
        )
        embedding = nn.Embedding(shape.vocab, shape.hidden, dtype=torch.bfloat16)
        lm_head = torch.randn(shape.vocab, shape.hidden, dtype=torch.bfloat16) * shape.hidden**-0.5
    with torch.no_grad():
        # Base logits of spread 2 and corrections of spread 1: the head changes tokens, as a trained one does.
        head.embed_proj[0].weight.normal_(std=2.0 * (shape.hidden + shape.num_units) ** -0.5)
        head.embed_proj[2].weight.normal_(std=shape.rank**-0.5)
        lm_head.mul_(2.0)
    head.to(torch.bfloat16).requires_grad_(False)
    embedding.requires_grad_(False)
    return Model(shape, head, embedding, lm_head)


def make_inputs(model: Model, batch: int, seed: int = 1) -> Inputs:
    device, shape = model.lm_head.device, model.shape
    torch.manual_seed(seed)
    hidden = torch.randn(batch, shape.num_proposals + 1, shape.hidden, dtype=torch.bfloat16, device=device)
    base = F.linear(hidden[:, :-1].flatten(0, 1), model.lm_head).view(batch, shape.num_proposals, -1)
    return Inputs(hidden, base, torch.randint(shape.vocab, (batch,), device=device))


def our_arms(model: Model, inputs: Inputs) -> dict[str, Callable[[], Arm]]:
    """Builders, so that an arm's memory is held only while it is timed."""
    batch = inputs.bonus.shape[0]

    def ours(name: str, *, temperature: float | None = 0.0, with_lm_head: bool = False) -> Callable[[], Arm]:
        # Served kernels read each request's temperature, 0 for greedy ones; None builds kernels that cannot sample.
        def build() -> Arm:
            sampling = None if temperature is None else inputs.at(temperature)
            draft = DominoRollout(
                model.head.weights(),
                embedding=model.embedding.weight,
                max_batch=batch,
                num_proposals=model.shape.num_proposals,
                pure_draft_prefix_len=model.shape.prefix,
            )

            def call() -> torch.Tensor:
                base = base_logits(model, inputs) if with_lm_head else inputs.base
                return draft(inputs.z, base, inputs.bonus, sampling).tokens

            return Arm(name, call, with_lm_head, greedy=not temperature, extra_bytes=draft.extra_bytes)

        return build

    return {
        "ours": ours("ours"),
        "ours sampled": ours("ours sampled", temperature=0.8),
        "ours greedy-only": ours("ours greedy-only", temperature=None),
        "ours + LM head": ours("ours + LM head", with_lm_head=True),
    }


def torch_arm(model: Model, inputs: Inputs) -> Arm:
    def call() -> torch.Tensor:
        return rollout(
            model.head.weights(),
            z=inputs.z,
            base_logits=inputs.base,
            bonus_tokens=inputs.bonus,
            embedding=model.embedding.weight,
            pure_draft_prefix_len=model.shape.prefix,
        ).tokens

    return Arm("torch", call)


def lm_head_arm(model: Model, inputs: Inputs) -> Arm:
    return Arm("LM head", lambda: base_logits(model, inputs), includes_lm_head=True)


def base_logits(model: Model, inputs: Inputs) -> torch.Tensor:
    """``[B, S, V]`` in one product, as the server makes them: of the strided ``z`` PyTorch would make B."""
    return F.linear(inputs.z.flatten(0, 1), model.lm_head).view(*inputs.z.shape[:2], -1)


def upstream_arm(module: ModuleType, model: Model, inputs: Inputs, pool: int) -> Arm:
    def call() -> torch.Tensor:
        return module.domino_greedy_rollout(
            draft_hidden=inputs.hidden,
            bonus_tokens=inputs.bonus,
            target_embedding=model.embedding,
            lm_head_weight=model.lm_head,
            prefix_gru=model.head.prefix_gru,
            embed_proj=model.head.embed_proj,
            vocab_size=model.shape.vocab,
            shift_label=True,
            candidate_pool_size=pool,
            in_cuda_graph=True,
        )

    return Arm(f"sglang pool {pool}", call, includes_lm_head=True, exact=pool == 0)


def load_upstream(wheel: Path | None) -> ModuleType | None:
    """SGLang's ``domino_utils`` from a wheel, or from wherever ``sglang`` lies on the path; None if nowhere.

    The file alone is loaded: it needs torch and nothing else, while ``import sglang`` needs all of SGLang's packages.
    """
    source = _upstream_source(wheel)
    if source is None:
        return None
    text, origin = source
    module = ModuleType("sglang_domino_utils")
    module.__file__ = origin
    module.sha256 = hashlib.sha256(text.encode()).hexdigest()
    sys.modules[module.__name__] = module
    exec(compile(text, origin, "exec"), module.__dict__)
    return module


def _upstream_source(wheel: Path | None) -> tuple[str, str] | None:
    if wheel is not None:
        if wheel.suffix == ".whl":
            return zipfile.ZipFile(wheel).read(UPSTREAM_FILE).decode(), f"{wheel}/{UPSTREAM_FILE}"
        return (wheel / UPSTREAM_FILE).read_text(), str(wheel / UPSTREAM_FILE)
    for entry in sys.path:
        if entry.endswith(".whl") and Path(entry).is_file():
            return _upstream_source(Path(entry))
    # The path itself: importlib.util.find_spec would answer with an SGLang imported earlier from somewhere else.
    spec = importlib.machinery.PathFinder.find_spec("sglang")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder).parent / UPSTREAM_FILE
        if file.is_file():
            return file.read_text(), str(file)
    return None


def oracle_weights(model: Model) -> HeadWeights:
    weights = model.head.weights()
    return HeadWeights(weights.w_ih.float(), weights.w_hh.float(), weights.w1.float(), weights.w2.float())
