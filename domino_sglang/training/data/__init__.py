"""Training data: prompts, the target's own text, hidden states."""
