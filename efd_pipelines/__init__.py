"""The Rubin Observatory's engineering data: archive, summaries, exposure joins and reports."""

__version__ = "0.1.0"
