"""Taking over new models: fetch, check, probe, swap, keep the one before.

:mod:`.updater` leads through the states, :mod:`.wanted` listens for what is asked for,
:mod:`.fetch` brings a bundle to disk, :mod:`.probe` tries it in a child process, and
:mod:`.store` keeps it.
"""
