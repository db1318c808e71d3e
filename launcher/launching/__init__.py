"""A plan carried out: what is submitted (`clusters`), and from the intent to the confirmed end (`launch`)."""
