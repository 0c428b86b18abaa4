"""A project of one's own: `cgankd init` makes it from a folder of images, `cgankd doctor` says what keeps it from running."""
