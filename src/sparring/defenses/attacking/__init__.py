"""Attacks that know the whole stack: what they see of it, what they climb, and in which order."""
