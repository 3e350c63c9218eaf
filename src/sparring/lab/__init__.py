"""The interactive page: pure functions that make what is shown, and one thin page around them."""
