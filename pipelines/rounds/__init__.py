"""Rounds of hard fakes in the stage `bank`: a probe student, and draws near the fakes that it finds hard."""
