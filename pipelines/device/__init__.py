"""The student where it will run: files for phones, boards and browsers, each run here by its own runtime."""
