"""The drafter under SGLang: backbone, the target's LM head, the Domino head."""
