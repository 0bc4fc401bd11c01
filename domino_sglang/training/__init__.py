"""Training a Domino drafter: the target's own text, anchored blocks, the base-anchored curriculum.

Nothing here imports sglang: training needs torch and transformers only.
"""
