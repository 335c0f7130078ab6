"""The HTTP API: routes, bodies, problem details, media on its way into the log."""
