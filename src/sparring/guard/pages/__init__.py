"""The operators' pages: rendered here, no script, no request to anywhere else."""
