"""The operator's way to the node sidecars."""
