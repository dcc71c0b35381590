"""Taking over new models: fetch, check, probe, swap, keep the one before.

In reading order: :mod:`.updater` leads every update through one table of states and talks to the
broker; :mod:`.wanted` is the topics that say what to run; :mod:`.job` is what each state does;
:mod:`.fetch` decides which blobs to ask for, :mod:`.partial` keeps them on disk; :mod:`.probe`
tries a bundle in a child process; :mod:`.store` and :mod:`.pointer` keep what is installed,
:mod:`.disk` durably; :mod:`.reports` tells of it all.
"""
