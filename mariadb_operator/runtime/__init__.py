"""What everything runs on: errors, workqueue, owned tasks, clock."""
