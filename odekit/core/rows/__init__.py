"""Solves in which every row of the batch has its own time, step size and end (``batch="rows"``)."""
