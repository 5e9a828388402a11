"""A model of its own, or prompts that come along, from annotated volumes; other ways to train, to compare with."""
