"""The examples of pages, of shell and of Python, run as a reader would run them."""
