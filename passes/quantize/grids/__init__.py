"""How numbers become integers."""
