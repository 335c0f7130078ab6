"""The published data sets that the networks train and are judged on, one a file; broken rows are skipped and counted."""


class DataError(ValueError):
    """A data set that is missing or holds nothing to use; the message says what to do next."""
