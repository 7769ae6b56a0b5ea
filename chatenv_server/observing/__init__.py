"""What a server reports of its work: metrics, traces, logs."""
