"""How work is executed: functions of every kind, and programs."""
