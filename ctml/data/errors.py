"""The one error that the data layer raises for data that is missing, damaged or not what it claims to be."""


class DataError(RuntimeError):
    """Data cannot be had: the message is one line that names the file and the way out."""
