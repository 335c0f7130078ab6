"""The worker: from the records of its partitions to stored results and committed offsets."""
