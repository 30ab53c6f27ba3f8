"""What a person looks at: pages, drawings, curves and tables, with the JSON twin of each report."""
