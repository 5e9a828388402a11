"""Images and their annotations, each on its own grid, brought to the model's grid and back."""
