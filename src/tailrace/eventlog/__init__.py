"""Where runs are kept: one contract, several stores."""
