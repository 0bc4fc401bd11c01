"""What decides a token: penalties, seeds, the target's distribution."""
