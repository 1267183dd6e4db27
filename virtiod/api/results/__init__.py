"""What methods answer: the objects that they put together, one module for each family."""
