"""Published weights: where they are found, and what their names are here."""
