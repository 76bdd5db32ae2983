"""A server of its own: settings, and the app it serves."""
