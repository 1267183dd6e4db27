"""The pages' shell examples, run as a reader would run them."""
