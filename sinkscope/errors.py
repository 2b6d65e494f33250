"""What sinkscope raises: one family; a message says what, where, what was found, what to do.

Every room may import this file; it imports nothing.
"""

__all__ = ["CheckpointError", "InputError", "SinkscopeError", "SiteError", "UnknownFamilyError"]


class SinkscopeError(ValueError):
    """Base of every error that a user's input can cause; the command line exits with 2."""


class InputError(SinkscopeError):
    """A clip, a text, an argument or a manifest row cannot be used."""


class CheckpointError(SinkscopeError):
    """A model folder or weight file is missing, damaged, of another kind, or unsafe to load."""


class UnknownFamilyError(SinkscopeError):
    """The architecture is not in the anatomy table, or its configuration changes a formula."""


class SiteError(SinkscopeError):
    """A requested site does not exist in the subject, was never seen, or cannot be kept."""
