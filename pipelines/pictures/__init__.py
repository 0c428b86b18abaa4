"""Every picture that is a file, drawn with matplotlib: of the stages, of a search, of an audit."""
