"""One module per page; its title is the question it answers. Not here: charts, data access."""
