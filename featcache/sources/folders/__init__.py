"""Folders of images, and what their names mean."""
