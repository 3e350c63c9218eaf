"""The audit: preflight, evaluation, curves, findings, in one report."""
