"""Fitting class prompts to examples; the network itself never changes."""
