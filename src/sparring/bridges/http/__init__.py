"""A classifier behind HTTP as a black box: declared in a few lines, capped, paced, cached."""

from sparring.bridges.http.declaration import Declaration, load_endpoint
from sparring.bridges.http.remote import Remote, open_endpoint

__all__ = ["Declaration", "Remote", "load_endpoint", "open_endpoint"]
