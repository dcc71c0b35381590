"""Records on disk until they are delivered; :mod:`.outbox` is the room's door."""
