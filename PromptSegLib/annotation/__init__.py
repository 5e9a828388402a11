"""What somebody said about voxels: strokes, labels, classes and examples, and checking them."""
