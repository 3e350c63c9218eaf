"""Watching clients: prints of their images, signals over their streams, and limits learned from benign traffic."""
