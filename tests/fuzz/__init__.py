"""Requests, flags and checkpoints drawn at random, DOMINO against plain decoding: ``make fuzz MINUTES=n``."""
