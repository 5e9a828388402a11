"""Images and their geometry: grids, resampling, intensities, and reading and checking them."""
