"""The domain of state: stores of values by key, with compare-and-swap."""
