"""The operator's signed repository: which bundles exist, and who is to run which.

In reading order: :mod:`.repository` is what people do with it, :mod:`.signed` the metadata in their
files, :mod:`.keys` keeps the keys, :mod:`.release` makes the payloads of a bundle; :mod:`.commands`
is the command line, with :mod:`.options`, and :mod:`.approving` what several commands do.
"""
