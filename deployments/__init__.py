"""Ray Serve, HTTP and the command line: the only folder that knows them."""
