"""What can be known of a packaged graph without running it."""
