"""How good a result is: scores against a reference, and simulated users to get results from."""
