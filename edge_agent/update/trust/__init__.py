"""What a device believes: signed metadata, checked in a short-lived child process.

In reading order: :mod:`.check` is the agent's side of the child, :mod:`.child` the process that
runs python-tuf, :mod:`.resolve` finds in what was verified the bundle that a device is to run, and
:mod:`.mark` remembers the highest versions that were ever seen, on disk before anything acts on
them.
"""
