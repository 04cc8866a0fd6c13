"""Look at models: what each layer is, how its values lie, how close int8 comes to float."""
