"""Forward passes of the update in which rows that begin alike share what they have in common."""
