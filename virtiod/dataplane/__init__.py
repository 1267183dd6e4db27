"""What runs for each I/O, compiled by Cython: a module here that has a .pxd is an extension."""
