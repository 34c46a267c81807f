"""Data sets: items `(input, target)` of a split, and the names of the classes."""
