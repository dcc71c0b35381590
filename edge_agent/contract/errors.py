"""Errors, named by who must act. Every message says what to do about it."""

from __future__ import annotations


class EdgeError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code = 1


class ConfigError(EdgeError):
    """A configuration file, a recipe or a command line is wrong: its author must act."""

    exit_code = 2


class BundleError(EdgeError):
    """A bundle is damaged, inconsistent, too new, or does not fit where it is to be used."""

    exit_code = 3


class SourceError(EdgeError):
    """A sensor or a recording cannot be opened or read: whoever wired the device must act."""

    exit_code = 4


class InferenceError(EdgeError):
    """The model cannot be loaded or run on this machine."""

    exit_code = 5


class NotFiniteError(InferenceError):
    """The model answered NaN or infinity."""


class StorageError(EdgeError):
    """The disk, the outbox or the model store cannot be used: whoever runs the device must act."""

    exit_code = 6


class LinkError(EdgeError):
    """The broker cannot be reached, or it refused something."""

    exit_code = 7


class ActionError(EdgeError):
    """What a fired decision should do did not work: whoever configured the action must act."""

    exit_code = 8
