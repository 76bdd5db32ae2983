"""The HTTP face: runs over REST, events as streams."""
