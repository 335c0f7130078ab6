"""The door of the Serve config file: `import_path: deployments.app:build`, or `:build_shadow`."""

from deployments.serve.app import build, build_shadow

__all__ = ["build", "build_shadow"]
