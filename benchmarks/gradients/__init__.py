"""What the gradient methods are worth: how exact, how much memory, how long."""
