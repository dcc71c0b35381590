"""What an update costs: one device, a whole group, and kills in the middle of it."""
