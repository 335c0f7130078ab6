"""The published data sets that the networks train and are judged on, one a file; broken rows are skipped and counted."""
