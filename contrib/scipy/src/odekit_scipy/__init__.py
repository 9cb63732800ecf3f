"""SciPy's ODE solvers as solvers of odekit."""
