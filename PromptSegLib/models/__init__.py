"""Frozen backbones: what they are, where they lie and how they are loaded."""
