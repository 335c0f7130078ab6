"""Checkpoints, results and notes in Redis: the only folder that knows one of their keys."""
