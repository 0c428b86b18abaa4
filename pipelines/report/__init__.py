"""What a person looks at: the report, comparisons of runs, and what a stage did."""
