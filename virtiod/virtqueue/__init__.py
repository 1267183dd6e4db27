"""Virtqueues, driver side: a ring, the requests on it and the I/O that becomes them, for any kind of device. A ring
format is a set of functions.
"""
