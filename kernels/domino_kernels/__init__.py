"""Triton kernels for the Domino head. Needs torch and triton only; see :class:`DominoRollout`."""

from domino_kernels.plan import LaunchPlan, Variant
from domino_kernels.rollout import DominoRollout, Proposals, RolloutWeights, VocabShard, input_gate_table

__all__ = [
    "DominoRollout",
    "LaunchPlan",
    "Proposals",
    "RolloutWeights",
    "Variant",
    "VocabShard",
    "input_gate_table",
]
