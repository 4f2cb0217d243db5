"""Files ↔ records: the only reader and writer of formats, and the collections made of them."""
