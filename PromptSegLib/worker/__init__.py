"""Torch in a process of its own, and the messages that go there and back."""
