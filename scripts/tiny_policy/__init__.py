"""How the shipped tiny policy is made and measured. Not part of the library."""
