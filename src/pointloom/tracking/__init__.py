"""Driving a model over time: a whole video (`Tracker`), or frame by frame (`Stream`)."""
