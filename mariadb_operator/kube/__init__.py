"""The way to the Kubernetes API: client with deadlines, reflector, events, patches, leases."""
