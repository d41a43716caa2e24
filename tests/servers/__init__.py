"""Real servers for tests: each a private instance on a free port of this machine, in a folder of its own."""

from servers.instance import Instance, missing

__all__ = ["Instance", "missing"]
