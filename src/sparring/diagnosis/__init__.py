"""Diagnosis: why a model falls, and whether its robustness is an illusion."""
