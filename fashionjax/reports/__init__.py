"""What a person looks at: pages, pictures, curves and tables, with the JSON twin of each report."""
