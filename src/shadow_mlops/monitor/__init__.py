"""The loop beside the gateway: what the log holds, what became of each event, what may go."""
