"""The server as a Ray Serve application: one ingress, many replicas that hold some cartridges."""
