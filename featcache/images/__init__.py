"""Bytes or arrays → pixels: decoding, resizing, augmented views, and images that crash a decoder."""
