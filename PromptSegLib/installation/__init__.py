"""What the module needs installed, and installing it; imports neither Slicer nor Qt nor torch."""
