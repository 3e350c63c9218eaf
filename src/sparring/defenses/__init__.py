"""Defenses around a model: transforms before it, detectors beside it, the stack of them, and attacks on that stack."""
