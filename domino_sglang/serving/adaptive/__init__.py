"""How many tokens a step verifies."""
