"""First-party models: continuous and discrete residual networks, and continuous normalizing flows."""
