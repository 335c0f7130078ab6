"""The Ray Serve application and its replicas."""
