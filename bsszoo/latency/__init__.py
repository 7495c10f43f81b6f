"""How fast is a network here: one timer, tables of blocks, runtimes in separate processes."""
