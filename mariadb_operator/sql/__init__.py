"""The way to the servers: connections with deadlines and the replication statements."""
