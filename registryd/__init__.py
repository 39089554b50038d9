"""registryd: a service registry that tells, right now and truthfully, which instances are alive."""

__version__ = "0.1.0"
