"""Class prompts as objects and files."""
