"""Training a backbone and its base-class prompts, once, before anybody freezes them."""
