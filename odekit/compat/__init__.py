"""Other libraries' interfaces on odekit's solvers, for programs that were written for them."""
