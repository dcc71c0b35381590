"""The operator's signed repository: which bundles exist, and who is to run which.

In reading order: :mod:`.repository` signs, :mod:`.keys` keeps the keys, :mod:`.release` makes the
payloads of a bundle, :mod:`.commands` is the command line.
"""
