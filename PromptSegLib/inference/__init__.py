"""From prompts and an image to labels on the image's own grid."""
