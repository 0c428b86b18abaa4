"""What a label is: a class or a number, on a line or a circle, and which labels count as near."""
