"""Tools for those who work on mfcnn."""
