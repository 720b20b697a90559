"""Parts of a page that several pages share. Not here: whole pages."""
