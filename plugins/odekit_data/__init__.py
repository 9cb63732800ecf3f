"""First-party datasets: one file, one entry point each; helpers that they share lie beside them."""
