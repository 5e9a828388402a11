"""Training the growing network: volumes, simulated users, redrawn contrasts, the loop."""
