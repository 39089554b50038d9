"""The thing itself: instances, leases and the changes between them.

Everything here is synchronous and gets the time as a parameter. It knows no clock, no I/O, no HTTP and no logging.
"""
