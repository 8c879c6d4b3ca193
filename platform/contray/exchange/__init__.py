"""Encoders that leave for other libraries and come from them, and features of whole sets of images."""
