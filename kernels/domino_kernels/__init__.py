"""Triton kernels for the Domino head. Needs torch and triton only.

:class:`DominoRollout` drafts, :class:`BonusDraw` draws the token after a rejection.
"""

from domino_kernels.bonus import BonusDraw
from domino_kernels.plan import LaunchPlan, Variant
from domino_kernels.rollout import DominoRollout, Proposals, RolloutWeights, VocabShard, input_gate_table

__all__ = [
    "BonusDraw",
    "DominoRollout",
    "LaunchPlan",
    "Proposals",
    "RolloutWeights",
    "Variant",
    "VocabShard",
    "input_gate_table",
]
