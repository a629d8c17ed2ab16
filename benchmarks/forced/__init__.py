"""What forced text brings: model runs, seconds, dispatches and buffers an answer; docs/forced.md."""
