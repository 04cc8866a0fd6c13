"""How several passes solve something: fits, tries, the choice of channel counts and ranges."""
