"""Who owns which streams, stores and consumers, and whether the owner may have more."""
