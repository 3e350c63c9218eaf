"""Attacks on one's own running guard, over HTTP, to learn how many queries pass before it speaks up."""
