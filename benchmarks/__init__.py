"""What is measured, one command each, against a rival in the same run."""
