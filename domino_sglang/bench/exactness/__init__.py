"""``domino-sglang bench exactness``: DOMINO's greedy tokens against plain decoding's, over HTTP."""
