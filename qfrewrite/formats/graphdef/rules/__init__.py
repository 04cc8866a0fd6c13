"""How each GraphDef node is read: converters in a module per family, and their table."""
