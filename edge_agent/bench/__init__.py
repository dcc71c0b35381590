"""``edge-agent bench``: how fast a bundle is on this machine, and what the machine was doing."""
