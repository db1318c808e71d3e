"""Programs that run on the rented node, each a process of its own: `python -m launcher.node.NAME`."""
