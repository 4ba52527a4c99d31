"""Files: published whole or not at all, read with care, and checked for what they may say."""
