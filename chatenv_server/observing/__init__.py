"""What a server tells of its work: metrics, traces, logs."""
