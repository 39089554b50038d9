"""The command line for people and their programs: `registryctl` asks a registry, and keeps programs registered.

It knows the registry by its HTTP calls alone, through the client.
"""
