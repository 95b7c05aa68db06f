"""Adapted models for other programs: written in their own formats, run by their own libraries, and certified."""
