"""Trees of proposals: what is drafted, which nodes are verified, and which of them are accepted.

One mechanism from no proposal to many: a chain is a tree with one child a node, plain decoding a tree of its root.
"""

from domino_sglang.core.tree.beam import draft_tree
from domino_sglang.core.tree.select import select
from domino_sglang.core.tree.types import Candidates, DraftTree, Walk
from domino_sglang.core.tree.walk import walk

__all__ = ["Candidates", "DraftTree", "Walk", "draft_tree", "select", "walk"]
