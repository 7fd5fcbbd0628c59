"""Augmentation of images before a network sees them, on the host and on the device."""
