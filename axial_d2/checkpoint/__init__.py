"""Importers of other projects' weights. Needs torch alone."""
