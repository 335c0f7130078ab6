"""One fusion network a file; made known in `models/families.py` (CONTRIBUTING.md, "Add a model")."""
