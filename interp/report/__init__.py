"""Run folders, figures and pages: tables in, files out. Nothing here runs a model or computes a result.

`run.Run` is the folder; a file per kind of run makes its figures and its report.html from what the folder holds.
"""
