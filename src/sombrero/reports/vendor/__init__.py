"""Code of others that the pages carry; each with its licence beside it."""
