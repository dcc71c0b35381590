"""What the converter, the agent and the fleet tool agree on.

Pure values and rules: msgspec and the standard library only. Nothing here does I/O beyond
reading and writing a bundle file, and nothing here imports the rest of the package.
"""
