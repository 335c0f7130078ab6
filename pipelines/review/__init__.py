"""After the call: audit, replay, redrive, comparison, summary."""
