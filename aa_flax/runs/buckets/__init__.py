"""Runs in a bucket of Google Cloud Storage: objects instead of files, and a lease instead of a lock."""
