"""Tables of images, and what their columns mean."""
