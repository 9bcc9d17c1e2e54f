"""What loading a model can raise; knows nothing about why."""


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be loaded: a file, key or tensor is missing or wrong.

    The message alone tells what to look at: file, key path or tensor, what was expected, what was
    found.
    """
