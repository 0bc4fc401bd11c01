"""Triton kernels for the Domino head. Needs torch and triton only.

:class:`DominoRollout` drafts, :class:`BonusDraw` draws the token after a rejection.
"""

from domino_kernels.arguments import Proposals, VocabShard
from domino_kernels.bonus import BonusDraw
from domino_kernels.rollout import DominoRollout

__all__ = [
    "BonusDraw",
    "DominoRollout",
    "Proposals",
    "VocabShard",
]
