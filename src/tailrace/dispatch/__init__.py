"""Where runs execute: here, or on a worker."""
