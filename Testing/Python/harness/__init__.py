"""What tests share: harnesses that drive a session, a worker or a process, and fixtures for them."""
