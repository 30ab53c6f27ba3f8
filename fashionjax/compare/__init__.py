"""Reports beside the published numbers, and what is missing to fill the table."""
