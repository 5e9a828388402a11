"""From strokes to regions without tuning, on any image: plain growing, learned growing, and the guard between them."""
