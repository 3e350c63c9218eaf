"""What the guard remembers: every decision, every alert, every sanction and every verdict, in one database."""
