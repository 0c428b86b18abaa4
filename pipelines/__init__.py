"""Everything around the library `cgankd` that knows files, services and users, in wings; presets of params.yaml beside them.

A module imports its own wing and wings further down. Top to bottom: commands, report, project, search, audit and ship,
stages, students, networks, runtime, files, pictures and tracking.
"""
