"""What is asked of calls afterwards: audit, replay, redrive, comparison, summary."""
