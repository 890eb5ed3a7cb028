"""A real Kubernetes on one Debian machine, without a registry: for the demo and the end-to-end tests.

Not for production, and not part of the operator: nothing here is imported by it.
"""
