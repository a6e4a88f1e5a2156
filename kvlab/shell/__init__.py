"""What the command line does, and set-up. Nothing is imported here: a bare Python starts it."""
