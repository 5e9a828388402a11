"""Making a model of its own from a backbone and annotated volumes; other ways to train on them, to compare with."""
