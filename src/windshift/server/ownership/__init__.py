"""Whose streams, stores and consumers are, and whether their owners may have more of them."""
