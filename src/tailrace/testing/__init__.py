"""What to test one's own code against Tailrace with."""
