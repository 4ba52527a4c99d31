"""What is kept in folders: a base, a head or a model, with a card that says what it is and checksums."""
