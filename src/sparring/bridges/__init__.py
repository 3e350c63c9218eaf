"""Bridges: models that live elsewhere (behind HTTP, in another framework, in a file of another form) as ours."""
