"""What the server does: sample, check, weigh, aggregate, step."""
