"""The protocol as Promela models, how they are checked, and real traces replayed; see README.md."""
