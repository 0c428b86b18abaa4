"""Networks from files: rebuilt from what a stage saved, or taken in from a teacher or generator of the user's own."""
