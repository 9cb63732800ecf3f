"""First-party solvers: each a name, an order and a tableau."""
