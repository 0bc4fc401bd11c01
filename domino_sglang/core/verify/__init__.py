"""Lossless acceptance: which proposals become committed tokens, and the bonus token after them.

Three rules, each a pure function over one batch of drafted blocks:

* :func:`accept_greedy`: the longest prefix that equals the target's argmax;
* :func:`accept_sampled`: token-wise rejection sampling (Leviathan et al., arXiv 2211.17192; Chen et al.,
  arXiv 2302.01318);
* :func:`accept_block`: block verification (Sun et al., arXiv 2403.10444), what
  ``--speculative-use-block-verification`` asks for.

The two sampled rules commit tokens distributed exactly as if drawn from the target one at a time. None of
them waits for the device: no ``.item()``, no boolean indexing, no loop over requests.
"""

from domino_sglang.core.verify.acceptance import Acceptance, accept_greedy, with_greedy_rows
from domino_sglang.core.verify.block_wise import accept_block
from domino_sglang.core.verify.bonus import BonusOf, bonus_token, draw_bonus, race, residual
from domino_sglang.core.verify.draft_rows import DraftRows, RowOfQ
from domino_sglang.core.verify.token_wise import accept_coins, accept_sampled, log_ratio

__all__ = [
    "Acceptance",
    "BonusOf",
    "DraftRows",
    "RowOfQ",
    "accept_block",
    "accept_coins",
    "accept_greedy",
    "accept_sampled",
    "bonus_token",
    "draw_bonus",
    "log_ratio",
    "race",
    "residual",
    "with_greedy_rows",
]
