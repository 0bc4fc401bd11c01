"""Acceptance of a drafter in training, and ablations."""
