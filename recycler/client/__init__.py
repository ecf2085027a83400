"""The client: a service's pools, studies and exports from Python, and behind `recycler --server`."""

from recycler.client.client import Client

__all__ = ["Client"]
