"""Training and comparing with Lightning, from recipes."""
