"""Estimators as few, fast nodes; :mod:`.lower` is the door."""
