"""First-party trace estimators."""
