"""What runs next to each server: the supervisor script now, the sidecar later."""
