"""The results of methods, one module for each family."""
