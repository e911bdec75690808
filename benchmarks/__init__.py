"""One script per question; results stand in docs/results.md."""
